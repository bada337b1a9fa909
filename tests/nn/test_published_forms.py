"""What users run against the published order of operations, at both precisions, layers and whole networks."""

import pytest
import timm
import torch
from torch import nn

import ctxvision.models  # noqa: F401 - registers the networks
from _oracle import TOLERANCE
from _published_forms import in_published_form
from ctxvision.nn import CoTLayer, Involution2d

LAYERS = {
    "cot": lambda: CoTLayer(32),
    "cot, 5x5, dilated": lambda: CoTLayer(48, kernel_size=5, dilation=2),
    "cotnext": lambda: CoTLayer(48, key_groups=8, groups=2),
    "cotnext, dilated": lambda: CoTLayer(96, dilation=2, key_groups=8, groups=2),
    "static": lambda: CoTLayer(32, context="static"),
    "dynamic": lambda: CoTLayer(32, context="dynamic"),
    "linear": lambda: CoTLayer(32, context="linear"),
    "involution": lambda: Involution2d(32),
    "involution, strided": lambda: Involution2d(48, kernel_size=5, stride=2),
    "involution, dilated": lambda: Involution2d(32, kernel_size=3, dilation=2, group_channels=8),
}
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def as_trained(module):
    """Random norms and biases, as after a training; weights as they were initialised."""
    for name, tensor in module.state_dict().items():
        if name.endswith("bn3.weight"):  # a trained block changes its input a little
            tensor.uniform_(0.1, 0.3)
        elif "running_var" in name or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.normal_(std=0.1)
    return module.eval()


def results(module, x):
    """The output, and the gradients of the input and of every parameter."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(leaf)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *module.parameters()], grad)]


def assert_agree(actual, expected, tolerance):
    for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
        error = (a - e).abs().max().item()
        assert error <= tolerance * max(1.0, e.abs().max().item()), f"result {n}: {error:.3g}"


@both_precisions
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layers(build, layout, dtype):
    layer = as_trained(build()).to(dtype)
    channels = next(m.in_channels for m in layer.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(2, channels, 9, 7, dtype=dtype).to(memory_format=layout)
    published = in_published_form(layer)
    tolerance = 10 * TOLERANCE[dtype]  # a chain of norms and sums, each of which is held to the table
    assert_agree(results(layer, x), results(published, x), tolerance)
    with torch.no_grad():
        assert_agree([layer(x)], [published(x)], tolerance)


@both_precisions
@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro", "cotnet50", "cotnext50_2x48d", "se_cotnetd50"])
def test_networks(name, dtype):
    model = as_trained(timm.create_model(name, num_classes=20)).to(dtype)
    x = torch.randn(2, 3, 64, 64, dtype=dtype)
    with torch.no_grad():
        assert_agree([model(x)], [in_published_form(model)(x)], 10 * TOLERANCE[dtype])
