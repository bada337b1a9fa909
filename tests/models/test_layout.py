"""Channels-last images stay channels-last through every layer: no network converts between layouts."""

import pytest
import timm
import torch
from timm.layers import LayerNorm

import ctxvision.models  # noqa: F401 - registers the networks
from _networks import everyday
from ctxvision.nn.contextual_conv import WeightOffsets
from ctxvision.ops import contextual_conv2d, local_aggregation

# one for each kind of stem, block, shortcut and downsampling; the others have more or wider blocks
NAMES = [
    "cotnet50", "cotnext50_2x48d", "se_cotnetd50", "se_cotnetd152", "cotnet_micro", "rednet_micro",
    "contextual_convnext_micro", "contextual_resnet50",
]  # fmt: skip
CL = torch.channels_last


def layers_that_leave_channels_last(model, x):
    """Run once and name the layers whose map is laid out otherwise."""
    found, maps = [], 0

    def look(name):
        def hook(module, args, output):
            nonlocal maps
            if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1:
                maps += 1
                if not output.is_contiguous(memory_format=CL):
                    found.append(name)

        return hook

    for name, module in model.named_modules():
        # (B, H, W, C) and kernels (B, C, k, k) are no maps; the others are called only while somebody watches
        unwatched = (LayerNorm, WeightOffsets, torch.nn.Linear, torch.nn.GroupNorm)
        if type(module) not in unwatched and not name.endswith(".embed.0"):
            module.register_forward_hook(look(name))
    model(x)
    assert maps > 40
    return found


def test_the_walk_sees_a_conversion():
    model = timm.create_model("rednet_micro").to(memory_format=CL).eval()
    model.layer2[0].bn2.register_forward_hook(lambda module, args, output: output.contiguous())
    with torch.no_grad():
        found = layers_that_leave_channels_last(model, torch.randn(1, 3, 64, 64).to(memory_format=CL))
    assert "layer2.0.bn2" in found


class Copies(torch.utils._python_dispatch.TorchDispatchMode):
    """Collect the shapes of maps that are copied into another layout."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default) and args[0].numel() > 10_000:
            self.shapes.append(tuple(args[0].shape))
        return result


@pytest.mark.parametrize("name", everyday(NAMES))
def test_every_map_is_channels_last_and_inference_copies_none(name):
    model = timm.create_model(name, drop_path_rate=0.1, num_classes=20).to(memory_format=CL)
    x = torch.randn(2, 3, 64, 64).to(memory_format=CL)
    assert layers_that_leave_channels_last(model.train(), x) == []
    with torch.no_grad(), Copies() as copies:
        assert layers_that_leave_channels_last(model.eval(), x) == []
    assert copies.shapes == []


def test_copies_are_seen():
    x = torch.empty(2, 16, 32, 32, device="meta").to(memory_format=CL)
    with Copies() as copies:
        x.contiguous()
    assert copies.shapes == [(2, 16, 32, 32)]


def test_operators_keep_the_layout():
    x = torch.randn(2, 16, 9, 9).to(memory_format=CL)
    assert local_aggregation(x, torch.randn(2, 2, 9, 9, 9)).is_contiguous(memory_format=CL)
    y = contextual_conv2d(x, torch.randn(16, 1, 3, 3), torch.randn(2, 18, 9, 9), padding=1, groups=16)
    assert y.is_contiguous(memory_format=CL)
