"""Small networks for tests, with every kind of block and nothing silent; and what using one must not change."""

import pytest
import timm
import torch
from torch import nn

import ctxvision  # noqa: F401 - registers the networks

# one of each family, and the kinds of layer that the small ones lack: grouped CoT, blur pools, dense contextual
EVERY_LAYER = {
    "cotnet_micro": {},
    "cotnext50_2x48d": {"depths": (1, 2, 1, 1)},
    "se_cotnetd152": {"depths": (1, 1, 2, 2)},
    "rednet_micro": {},
    "contextual_convnext_micro": {"depths": (1, 1, 2, 1), "contextual_blocks": (1, 1, 1, 1)},
    "contextual_resnet50": {"stages": (3, 4), "depths": (1, 2, 1, 3), "prior": True},
}


def everyday(names):
    """Return the names as parameters, of which only those of the small networks are left to `make test-fast`."""
    return [name if name.endswith("micro") else pytest.param(name, marks=pytest.mark.slow) for name in names]


def lively(name, num_classes=20, **kwargs):
    """Return a network in eval mode whose zero-initialised parameters have random values instead."""
    model = timm.create_model(name, num_classes=num_classes, **kwargs).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.detach().any():
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def state(model):
    """Return what an explanation or an export must leave as it was: modes, hooks, gradients, buffers."""
    return (
        [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        {name: buffer.clone() for name, buffer in model.named_buffers()},
    )


def same_state(first, second):
    """Assert that two results of `state` are equal."""
    modules, parameters, buffers = zip(first, second, strict=True)
    assert modules[0] == modules[1]
    for (wanted, grad), (wanted2, grad2) in zip(*parameters, strict=True):
        assert wanted == wanted2
        assert (grad is None) == (grad2 is None)
        assert grad is None or torch.equal(grad, grad2)
    for name, buffer in buffers[0].items():
        assert torch.equal(buffer, buffers[1][name])
    return True


def shorter(name):
    """Return constructor arguments that leave one to three blocks of each kind: more only take longer."""
    if "convnext" in name:
        return {"depths": (1, 1, 2, 1), "contextual_blocks": (1, 1, 1, 1)}
    if name.endswith("micro"):
        return {}  # has no more
    for family, depths in (("contextual_resnet", (1, 1, 1, 3)), ("cotnetd", (1, 1, 2, 2))):
        if family in name:
            return {"depths": depths}
    return {"depths": (1, 2, 1, 1)}


def kinds(model):
    """Return what the residual blocks are made of, each kind once, without widths."""
    return {
        tuple((name, type(part).__name__, _stride(part)) for name, part in block.named_modules())
        for block in model.modules()
        if any(word in type(block).__name__ for word in ("Bottleneck", "Block"))
    }


def _stride(part):
    # nn.Sequential has an attribute of its blocks' making
    return None if isinstance(part, nn.Sequential) else getattr(part, "stride", None)
