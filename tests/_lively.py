"""Networks for the tests of what a network looked at."""

import timm
import torch

import ctxvision  # noqa: F401


def lively(name, num_classes=20, **kwargs):
    """A network whose zero-initialised parts do something, in evaluation mode."""
    model = timm.create_model(name, num_classes=num_classes, **kwargs).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.detach().any():
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def state(model):
    """What looking at a network must not change."""
    return (
        [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        {name: buffer.clone() for name, buffer in model.named_buffers()},
    )


def same_state(first, second):
    modules, parameters, buffers = zip(first, second, strict=True)
    assert modules[0] == modules[1]
    for (wanted, grad), (wanted2, grad2) in zip(*parameters, strict=True):
        assert wanted == wanted2
        assert (grad is None) == (grad2 is None)
        assert grad is None or torch.equal(grad, grad2)
    for name, buffer in buffers[0].items():
        assert torch.equal(buffer, buffers[1][name])
    return True
