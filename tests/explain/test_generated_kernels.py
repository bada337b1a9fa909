import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from _networks import lively, same_state, state
from ctxvision.explain import Contexts, generated_kernels, kernel_layers
from ctxvision.nn import replace_convs


def watch(model, name, image):
    """The input and the output of a layer."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda m, i, o: seen.extend([i[0].clone(), o.clone()])
    )
    with torch.no_grad():
        model(image)
    handle.remove()
    return seen


def aggregate(values, kernels, k, stride, channel_groups):
    """Weigh the neighbourhood of every position with the kernel found there, by unfolding."""
    batch, channels = values.shape[:2]
    size = kernels.shape[3:]
    patches = F.unfold(values, k, padding=k // 2, stride=stride).view(batch, channels, k * k, *size)
    return (patches * kernels[:, channel_groups]).sum(2)


@pytest.mark.parametrize("size", [(64, 64), (75, 49)])
def test_involution_kernels_make_the_layer_s_output(size):
    model, image = lively("rednet_micro"), torch.randn(2, 3, *size)
    assert kernel_layers(model)[0] == "conv1.3"
    found = generated_kernels(model, image)
    assert [layer.name for layer in found] == kernel_layers(model)
    for layer in found:
        x, output = watch(model, layer.name, image)
        module = model.get_submodule(layer.name)
        k, channels = layer.kernel[0], torch.arange(x.shape[1])
        expected = aggregate(x, torch.from_numpy(layer.kernels), k, module.stride, channels // 16)
        torch.testing.assert_close(expected, output, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(layer.sums(), layer.kernels.sum(2))


@pytest.mark.parametrize("context", ["full", "dynamic", "linear"])
def test_attention_and_shares_make_the_layer_s_output(context):
    model, image = lively("cotnet_micro", context=context), torch.randn(2, 3, 64, 80)
    for layer in generated_kernels(model, image, kernel_layers(model)[:3]):
        x, output = watch(model, layer.name, image)
        module = model.get_submodule(layer.name)
        channels = x.shape[1]
        with torch.no_grad():
            static, values = module.key_embed(x), module.conv1x1(x)
            groups = torch.arange(channels) % (channels // 8)  # interleaved
            dynamic = F.silu(module.bn(aggregate(values, torch.from_numpy(layer.kernels), 3, 1, groups)))
        if context == "full":
            share = torch.from_numpy(layer.dynamic_share)[..., None, None]
            expected = dynamic * share + static * (1 - share)
        else:
            assert layer.dynamic_share is None
            expected = dynamic + static * (context == "linear")
        torch.testing.assert_close(expected, output, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(layer.static, static.pow(2).mean(1).sqrt().numpy(), rtol=1e-4)
        np.testing.assert_allclose(layer.dynamic, dynamic.pow(2).mean(1).sqrt().numpy(), rtol=1e-3, atol=1e-5)


def test_cotnext_has_maps_of_its_own_for_each_half():
    model = timm.create_model("cotnext50_2x48d", num_classes=4).eval()
    name = kernel_layers(model)[0]
    (layer,) = generated_kernels(model, torch.randn(1, 3, 32, 32), [name])
    assert layer.kernels.shape[1] == model.get_submodule(name).maps
    assert isinstance(layer, Contexts)


def test_layers_without_attention_are_left_out():
    assert kernel_layers(timm.create_model("cotnet_micro", context="static")) == []
    assert kernel_layers(timm.create_model("contextual_convnext_micro")) == []
    mixed = replace_convs(timm.create_model("resnet10t"), "involution")
    assert len(generated_kernels(mixed, torch.randn(1, 3, 64, 64))) == len(kernel_layers(mixed)) > 0


@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro"])
def test_the_network_stays_as_it_was(name):
    model = lively(name).train()
    model.layer1.eval()
    before, image = state(model), torch.randn(1, 3, 64, 64)
    first, again = (generated_kernels(model, image) for _ in range(2))
    assert all(np.array_equal(a.kernels, b.kernels) for a, b in zip(first, again, strict=True))
    assert same_state(before, state(model))
    with pytest.raises(RuntimeError):
        generated_kernels(model, torch.randn(1, 7, 64, 64))
    assert same_state(before, state(model))
    with pytest.raises(ValueError, match=r"'fc' generates no kernels; .*layer2.0.conv2"):
        generated_kernels(model, image, ["fc"])
