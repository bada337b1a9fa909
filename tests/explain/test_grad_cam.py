import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from _networks import lively, same_state, state
from ctxvision.explain import LayerError, class_funnel, grad_cam, map_layers


def by_hand(model, image, layer, score):
    """Grad-CAM of one image (1, C, H, W) as the paper writes it: at the layer, and scaled to the image."""
    seen = []

    def replace(_module, _inputs, output):
        seen.append(output)
        return output.clone()  # what follows may work in place

    handle = model.get_submodule(layer).register_forward_hook(replace)
    value = score(model, image)
    handle.remove()
    (gradient,) = torch.autograd.grad(value, seen[0])
    raw = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1)[0].detach()
    heat = F.interpolate(raw.clamp(min=0)[None, None], image.shape[2:], mode="bilinear")[0, 0]
    return raw, (heat - heat.min()) / (heat - heat.min()).max().clamp(min=1e-7)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("cotnet_micro", None),
        ("cotnet_micro", "layer3.0.bn3"),  # followed by an addition in place
        ("cotnet_micro", "layer2.0.conv2.conv1x1"),
        ("rednet_micro", "layer3.0.conv2"),
        ("resnet10t", None),
        ("contextual_convnext_micro", None),
        ("contextual_convnext_micro", "stages.1.blocks.0.conv_dw"),
        ("contextual_resnet50", "layer3.2.conv2"),
    ],
)
def test_it_is_the_formula(name, layer):
    model, images = lively(name), torch.randn(2, 3, 96, 64)
    found = grad_cam(model, images, layer=layer)
    assert [cam.target for cam in found] == model(images).argmax(1).tolist()
    for image, cam in zip(images, found, strict=True):
        agrees_with_the_formula(model, image[None], cam)


def test_a_given_class_is_explained():
    model, images = lively("rednet_micro"), torch.randn(2, 3, 64, 64)
    for image, cam in zip(images, grad_cam(model, images, [4, 11]), strict=True):
        assert cam.target in (4, 11)
        agrees_with_the_formula(model, image[None], cam)


def agrees_with_the_formula(model, image, cam):
    raw, scaled = by_hand(model, image, cam.layer.name, lambda m, x: m(x)[0, cam.target])
    assert raw.abs().max() > 0
    assert cam.raw.shape == cam.layer.size
    torch.testing.assert_close(torch.from_numpy(cam.raw), raw, rtol=1e-3, atol=1e-4 * raw.abs().max().item())
    torch.testing.assert_close(torch.from_numpy(cam.map), scaled, rtol=0, atol=2e-3)


def test_a_class_is_explained_where_it_was_scored_last():
    """Of a class that was dropped, the cosine of the step that dropped it is explained, not its constant logit."""
    model, image = lively("contextual_convnext_micro", num_classes=40), torch.randn(1, 3, 64, 64)
    (funnel,) = class_funnel(model, image, [0])
    last = {c: number for number, stage in enumerate(funnel.stages) for c in stage.classes}
    ends = ["stages.0", "stages.1", "stages.2", "stages.2"]  # the head: ≥ 4 × 4
    met = set()
    for c in {last[c]: c for c in range(40)}.values():  # one that each step scored last
        (cam,) = grad_cam(model, image, [c])
        step = last[c]
        met.add(step)
        assert (cam.scored_by, cam.layer.name) == (funnel.stages[step].name, ends[step])

        def score(m, x, c=c, step=step):
            output = m.forward_stages(x)
            return output.scores[step][0, output.classes[step][0].tolist().index(c)]

        raw, scaled = by_hand(model, image, ends[step], score)
        tau = model.context.temperature.item()
        torch.testing.assert_close(
            torch.from_numpy(cam.raw) * tau, raw, rtol=1e-3, atol=1e-4 * raw.abs().max().item()
        )
        torch.testing.assert_close(torch.from_numpy(cam.map), scaled, rtol=0, atol=2e-3)
    assert len(met) == 4


def test_a_layer_after_the_class_was_dropped_is_refused():
    model, image = lively("contextual_convnext_micro", num_classes=40), torch.randn(1, 3, 64, 64)
    (funnel,) = class_funnel(model, image, [0])
    dropped = next(c for c, kept in zip(funnel.stages[0].classes, funnel.stages[0].kept, strict=True) if not kept)
    with pytest.raises(LayerError, match=r"'stages.2.blocks.3' comes after the class was dropped.*stages.0"):
        grad_cam(model, image, [dropped], layer="stages.2.blocks.3")
    assert grad_cam(model, image, [dropped], layer="stem")[0].layer.name == "stem"


def test_choosing_again_keeps_every_class_to_the_head():
    model = lively("contextual_convnext_micro", num_classes=40, selection="rerank")
    found = grad_cam(model, torch.randn(1, 3, 64, 64).repeat(5, 1, 1, 1), [0, 9, 17, 23, 39])
    assert {cam.scored_by for cam in found} == {"head"}


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("cotnet_micro", 128, "layer4"),  # 4 × 4
        ("cotnet_micro", 127, "layer4"),
        ("cotnet_micro", 96, "layer3"),  # layer4 has 3 × 3
        ("cotnet_micro", 32, "layer2"),
        ("contextual_convnext_micro", 128, "stages.3"),
        ("contextual_resnet50", 64, "layer3"),
        ("convnext_atto", 64, "stages.2"),
    ],
)
def test_the_layer_chosen_has_places(name, size, layer):
    model = timm.create_model(name, num_classes=6)
    (cam,) = grad_cam(model, torch.randn(1, 3, size, size))
    assert cam.layer.name == layer


def test_wrong_layers_are_answered_with_candidates():
    model, image = lively("contextual_convnext_micro"), torch.randn(1, 3, 64, 64)
    with pytest.raises(
        LayerError,
        match=r"no layer 'stages.3.block.1'.*did you mean stages.3.blocks.1.*ends of the stages are stem, ",
    ):
        grad_cam(model, image, layer="stages.3.block.1")
    with pytest.raises(LayerError, match="no layer of this network returns a map"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(12288, 5)), image)


def test_a_layer_that_does_not_matter_is_refused():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.unused(x)
            return self.used(x).mean((2, 3))

    with pytest.raises(LayerError, match="does not depend on layer 'unused'"):
        grad_cam(Branch(), torch.randn(1, 3, 8, 8), layer="unused")


def test_other_scores_can_be_explained():
    """Networks that return maps of classes, as for segmentation: explain the share of one class."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    image = torch.randn(1, 3, 32, 32)
    (cam,) = grad_cam(model, image, layer="1", score=lambda maps: maps[2].mean())
    raw, scaled = by_hand(model, image, "1", lambda m, x: m(x)[0, 2].mean())
    torch.testing.assert_close(torch.from_numpy(cam.raw), raw, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(cam.map), scaled, rtol=0, atol=2e-3)
    assert cam.target is None


def test_classes_must_fit():
    model, images = lively("resnet10t"), torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"one per image, \(2,\), got \(1,\)"):
        grad_cam(model, images, [1])
    with pytest.raises(ValueError, match=r"0..19, got \[3, 20\]"):
        grad_cam(model, images, [3, 20])


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_network_stays_as_it_was(grad_mode):
    model = lively("contextual_convnext_micro").train()
    model.stages[0].eval()  # a frozen part
    next(model.parameters()).requires_grad_(False)
    for parameter in list(model.parameters())[1:]:
        parameter.grad = torch.ones_like(parameter)
    before = state(model)
    with grad_mode():
        found = grad_cam(model, torch.randn(1, 3, 64, 64))
        assert np.isfinite(found[0].map).all()
    assert same_state(before, state(model))
    with pytest.raises(LayerError):
        grad_cam(model, torch.randn(1, 3, 64, 64), layer="nowhere")
    assert same_state(before, state(model))


def test_layers_are_listed_in_the_order_in_which_they_finish():
    layers = map_layers(lively("rednet_micro"), torch.randn(1, 3, 64, 64))
    names = [layer.name for layer in layers]
    assert names.index("layer1") < names.index("layer2") < names.index("layer4")
    assert names.index("layer2.0.conv2.span") < names.index("layer2.0.conv2") < names.index("layer2.0")
    assert {layer.name: layer.size for layer in layers}["layer2"] == (8, 8)
    assert [layer.name for layer in layers if layer.stage] == ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("cotnet_micro", "layer3.0.bn3"),  # followed by an addition in place
        ("rednet_micro", "layer4"),
        ("contextual_convnext_micro", "stages.0.blocks.0.conv_dw"),
        ("swin_tiny_patch4_window7_224", "layers.2"),  # NHWC
    ],
)
def test_it_is_what_pytorch_grad_cam_computes(name, layer):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = lively(name), torch.randn(2, 3, *(2 * [224] if "swin" in name else (96, 64)))
    arrange = (0, 3, 1, 2) if "swin" in name else (0, 1, 2, 3)
    with GradCAM(model, [model.get_submodule(layer)], lambda maps: maps.permute(arrange).clone()) as theirs:
        expected = theirs(images, [ClassifierOutputTarget(3)] * 2)
    for cam, scaled in zip(grad_cam(model, images, [3, 3], layer=layer), expected, strict=True):
        assert scaled.max() > 0.99
        np.testing.assert_allclose(cam.map, scaled, rtol=0, atol=2e-5)
