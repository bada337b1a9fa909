"""Layers against plain counterparts and their published definitions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import SplitAttn
from torch import nn
from torch.nn.utils import prune

from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d, SplitAttention2d


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 if "running_var" in name
                         else torch.randn(tensor.shape, generator=generator) * 0.3)  # fmt: skip
    return module.double().eval()


@given(
    height=st.integers(1, 15),
    width=st.integers(1, 15),
    stride=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5, 7]),
)
def test_involution_has_the_convolutions_size_and_value_at_every_size_and_stride(height, width, stride, kernel):
    layer = randomise(Involution2d(32, kernel_size=kernel, stride=stride))
    x = torch.randn(1, 32, height, width, dtype=torch.float64)
    y = layer(x)
    reference = F.conv2d(x, torch.zeros(1, 32, kernel, kernel).double(), stride=stride, padding=kernel // 2)
    assert y.shape[2:] == reference.shape[2:]
    # by the definition, pixel by pixel, with a pool that averages the pixels a window has
    i, j = y.shape[2] - 1, y.shape[3] - 1
    window = x[:, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].mean((2, 3), keepdim=True)
    kernels = layer.span(layer.reduce(window)).reshape(2, kernel, kernel)
    padded = F.pad(x, [kernel // 2] * 4)
    patch = padded[0, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel].reshape(
        2, 16, kernel, kernel
    )
    torch.testing.assert_close(
        y[0, :, i, j], (patch * kernels[:, None]).sum((2, 3)).flatten(), rtol=1e-10, atol=1e-10
    )


def test_involution_refuses_what_it_cannot_build():
    with pytest.raises(ValueError, match=r"channels 30 .* group_channels 16"):
        Involution2d(30)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        Involution2d(32, kernel_size=4)


def test_cot_groups_fold_into_the_width_as_into_the_batch():
    layer = randomise(CoTLayer(48, dilation=2, key_groups=8, groups=2))
    values, raw = torch.randn(2, 48, 9, 7, dtype=torch.float64), torch.randn(2, 54, 9, 7, dtype=torch.float64)
    expected = layer._aggregate(layer._normed_maps(raw), values)
    raw, values = (t.to(memory_format=torch.channels_last) for t in (raw, values))
    y = layer._aggregate(layer._normed_maps(raw), values)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_split_attention_equals_timms_under_the_same_names():
    plain = SplitAttn(64, stride=2, padding=1, radix=1, act_layer=nn.SiLU, norm_layer=nn.BatchNorm2d)
    randomise(plain)
    layer = SplitAttention2d(64, stride=2).double().eval()
    layer.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(2, 64, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)


def test_split_attention_refuses_what_it_cannot_build():
    with pytest.raises(ValueError, match="channels 36 and 32 must be multiples of groups 8"):
        SplitAttention2d(36, groups=8)


def test_cot_ablations_are_parts_of_the_full_layer():
    full = randomise(CoTLayer(32))
    x = torch.randn(2, 32, 5, 5, dtype=torch.float64)
    static = full.key_embed(x)
    parts = {"static": static, "dynamic": full.dynamic_context(x, static)}
    parts["linear"] = parts["static"] + parts["dynamic"]
    for context, expected in parts.items():
        layer = CoTLayer(32, context=context).double().eval()
        names = layer.state_dict().keys()
        layer.load_state_dict({name: value for name, value in full.state_dict().items() if name in names})
        torch.testing.assert_close(layer(x), expected)


def test_cot_layer_refuses_what_it_cannot_build():
    with pytest.raises(ValueError, match="channels 36 must be a multiple of 8"):
        CoTLayer(36)
    with pytest.raises(ValueError, match="got 'both'"):
        CoTLayer(32, context="both")


DEPTHWISE = {"in_channels": 12, "out_channels": 12, "kernel_size": 7, "padding": 3, "groups": 12}
DENSE = {"in_channels": 6, "out_channels": 10, "kernel_size": 3, "padding": 1, "stride": 2, "bias": False}


@pytest.mark.parametrize("shape", [DEPTHWISE, DENSE], ids=["depthwise", "dense"])
@pytest.mark.parametrize("prior_dim", [0, 5])
@pytest.mark.parametrize(
    "options", [{}, {"modulation": True}, {"sampling": False}, {"weight_hidden": None},
                {"weight_hidden": None, "sampling": False}]
)  # fmt: skip
def test_contextual_conv_starts_as_the_plain_convolution_and_learns_to_leave_it(shape, prior_dim, options):
    torch.manual_seed(0)
    layer = ContextualConv2d(**shape, prior_dim=prior_dim, **options).double()
    x, prior = torch.randn(2, layer.weight.shape[1] * layer.groups, 9, 8).double(), None
    if prior_dim:
        prior = torch.randn(2, prior_dim).double()
    plain = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)
    y = layer(x, prior)
    torch.testing.assert_close(y, plain, rtol=1e-14, atol=1e-14)
    y.square().sum().backward()
    zero_started = [p for n, p in layer.named_parameters() if n.endswith(("fc2.weight", "conv2.weight"))]
    assert all(p.grad.abs().max() > 0 for p in zero_started), "the zero-started layers must receive gradients"
    if zero_started and prior_dim:
        for parameter in zero_started:
            parameter.data.normal_(std=0.1)
        assert not torch.allclose(layer(x, prior), plain)
        assert not torch.allclose(layer(x, prior), layer(x, -prior)), "the prior must matter"


def test_offset_generators_equal_expanding_and_concatenating_the_prior():
    layer = randomise(ContextualConv2d(**DEPTHWISE, prior_dim=5, weight_hidden=4, modulation=True))
    x, prior = torch.randn(2, 12, 6, 7).double(), torch.randn(2, 5).double()
    weight_offset, sampling_offset, mask = layer.offsets(x, prior)
    generator = layer.sampling_offsets
    joined = torch.cat([x, prior[:, :, None, None].expand(-1, -1, 6, 7)], 1)
    weight = torch.cat([generator.conv1.weight, generator.prior.weight[:, :, None, None]], 1)
    hidden = F.conv2d(joined, weight, generator.conv1.bias).permute(0, 2, 3, 1)
    hidden = F.layer_norm(
        hidden, hidden.shape[-1:], generator.norm.weight, generator.norm.bias, generator.norm.eps
    )
    maps = generator.conv2(F.relu(hidden.permute(0, 3, 1, 2)))
    torch.testing.assert_close(sampling_offset, maps[:, :98])
    torch.testing.assert_close(mask, 2 * maps[:, 98:].sigmoid())
    assert weight_offset.shape == (2, 12, 7, 7)
    assert mask.shape == (2, 49, 6, 7)


@pytest.mark.parametrize(
    ("prior_dim", "prior"), [(5, None), (5, torch.randn(2, 4)), (0, torch.randn(2, 5)), (5, torch.randn(3, 5))]
)
def test_a_wrong_prior_is_named(prior_dim, prior):
    layer = ContextualConv2d(**DEPTHWISE, prior_dim=prior_dim)
    with pytest.raises(ValueError, match="prior must be"):
        layer(torch.randn(2, 12, 7, 7), prior)


def test_modulation_without_sampling_is_refused():
    with pytest.raises(ValueError, match="needs sampling=True"):
        ContextualConv2d(**DEPTHWISE, sampling=False, modulation=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Involution2d(32, stride=0),
        lambda: Involution2d(32, group_channels=0),
        lambda: Involution2d(32, kernel_size=-1),
        lambda: CoTLayer(0),
        lambda: CoTLayer(32, kernel_size=4),
        lambda: CoTLayer(32, groups=0),
        lambda: ContextualConv2d(8, 8, kernel_size=(3, 3)),
        lambda: ContextualConv2d(8, 8, kernel_size=3, weight_hidden=0),
    ],
)
def test_constructors_name_the_value_that_is_wrong(build):
    with pytest.raises(ValueError, match=r"must be (an integer >= 1|odd)"):
        build()


def test_cot_gradients_belong_to_the_parameters_of_the_forward_pass():
    """Parts are computed again in the backward pass, when the module may hold other parameters."""
    layer, x = CoTLayer(16).eval(), torch.randn(2, 16, 6, 6)
    parameters = {
        name: (value + 0.3 * torch.randn_like(value)).detach().requires_grad_()
        for name, value in layer.named_parameters()
    }
    y = torch.func.functional_call(layer, parameters, (x,))
    actual = torch.autograd.grad(y.square().sum(), list(parameters.values()))
    layer.load_state_dict(parameters, strict=False)
    expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    torch.testing.assert_close(actual, expected)


def test_cot_notices_a_parameter_that_changes_before_the_backward_pass():
    layer, x = CoTLayer(16).eval(), torch.randn(2, 16, 6, 6)
    y = layer(x)
    with torch.no_grad():
        layer.embed[4].weight.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_cot_s_activation_can_be_replaced():
    layer, x = CoTLayer(16).eval(), torch.randn(2, 16, 6, 6)
    layer.act = torch.nn.Hardswish(inplace=True)
    with torch.no_grad():
        expected = layer(x)
    torch.testing.assert_close(layer(x).detach(), expected)


def test_cot_s_layers_can_be_pruned_and_hooked():
    layer, x = CoTLayer(16), torch.randn(2, 16, 6, 6)
    plain, called = CoTLayer(16), []
    plain.load_state_dict(layer.state_dict())
    layer.embed[0].register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(layer(x), plain(x))
    assert called
    prune.l1_unstructured(layer.embed[0], "weight", 0.5)
    for _ in range(2):
        layer(x).sum().backward()
