"""Tools that fold a BatchNorm into the layer before it: outputs stay the same, or the tool is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d, SplitAttention2d, replace_convs

CONV = {"kernel_size": 3, "padding": 1, "prior_dim": 0, "weight_hidden": 4}
LAYERS = {
    "cot": lambda: CoTLayer(32),
    "cotnext": lambda: CoTLayer(32, groups=2, key_groups=8),
    "involution": lambda: Involution2d(32, kernel_size=3, stride=2),
    "split attention": lambda: SplitAttention2d(32),
    "contextual": lambda: ContextualConv2d(32, 16, bias=False, **CONV),
    "contextual with bias": lambda: ContextualConv2d(32, 16, bias=True, **CONV),
    "contextual depthwise": lambda: ContextualConv2d(32, 32, groups=32, modulation=True, **CONV),
    "strided cot": lambda: replace_convs(nn.Conv2d(32, 16, 3, 2, 1, bias=False), "cot"),
    "projected involution": lambda: replace_convs(nn.Conv2d(32, 48, 3, 1, 1), "involution"),
}


def build(name: str) -> tuple[nn.Module, nn.BatchNorm2d, torch.Tensor]:
    torch.manual_seed(0)
    layer, x = LAYERS[name]().eval(), torch.randn(2, 32, 7, 7)
    for key, parameter in layer.named_parameters():
        if "offsets" in key:
            nn.init.normal_(parameter, std=0.2)
    norm = nn.BatchNorm2d(layer(x).shape[1]).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    norm.running_var.uniform_(0.5, 2)
    return layer, norm, x


@pytest.mark.parametrize("name", LAYERS)
def test_torch_s_tool_leaves_the_output_as_it_was(name):
    layer, norm, x = build(name)
    keys, fused = list(layer.state_dict()), fuse_conv_bn_eval(layer, norm)
    with torch.no_grad():
        expected = norm(layer(x))
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
        twice = fuse_conv_bn_eval(copy.deepcopy(fused), norm)
        torch.testing.assert_close(twice(x), norm(expected), rtol=1e-4, atol=1e-4)
    assert list(layer.state_dict()) == keys


@pytest.mark.parametrize("name", LAYERS)
def test_ultralytics_tool_leaves_the_output_as_it_was(name):
    layer, norm, x = build(name)
    with torch.no_grad():
        expected = norm(layer(x))
    layer.weight, layer.bias = fuse_conv_bn_weights(  # what ultralytics 8.4 does
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    torch.testing.assert_close(layer.requires_grad_(False)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAYERS if "bias" not in name and "depthwise" not in name])
def test_tools_that_write_into_the_kernel_are_refused(name):
    layer, norm, _ = build(name)
    layer.weight.data.mul_(2)
    with pytest.raises(RuntimeError, match=r"nor a BatchNorm be folded .* use ctxvision.nn.fuse"):
        layer.register_parameter("bias", nn.Parameter(norm.bias.data))
    with pytest.raises(RuntimeError, match="a bias cannot be set"):
        layer.bias = nn.Parameter(norm.bias.data)


@pytest.mark.parametrize("name", LAYERS)
def test_torch_ao_does_not_fuse_them(name):
    layer, norm, _ = build(name)
    with pytest.raises((AssertionError, NotImplementedError), match=type(layer).__name__):
        torch.ao.quantization.fuse_modules(nn.Sequential(layer, norm), [["0", "1"]])


def test_new_weights_of_a_contextual_convolution_are_no_norm():
    layer, _, x = build("contextual with bias")
    other, _, _ = build("contextual with bias")
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    layer.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(layer(x), other(x))
    layer.weight = nn.Parameter(2 * other.weight)
    plain = ContextualConv2d(32, 16, **CONV).eval()
    plain.load_state_dict({**other.state_dict(), "weight": 2 * other.weight})
    assert torch.equal(layer(x), plain(x)), "half of a folding is none"


def test_a_kernel_with_an_empty_channel_is_not_folded():
    layer, norm, _ = build("contextual")
    layer.weight.data[3] = 0
    with pytest.raises(RuntimeError, match="ContextualConv2d"):
        fuse_conv_bn_eval(layer, norm)
