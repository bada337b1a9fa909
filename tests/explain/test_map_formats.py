"""Maps whose channels come last, what looks like a map and is none, and where a class was lost."""

import pytest
import timm
import torch

from _networks import lively
from ctxvision.explain import class_fates, class_funnel, grad_cam
from ctxvision.explain.layers import LayerError, map_format, map_layers


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((1, 96, 4, 4), (32, 32), "NCHW"),
        ((1, 4, 4, 96), (32, 32), "NHWC"),
        ((1, 512, 1, 1), (64, 64), "NCHW"),
        ((1, 7, 7, 768), (224, 224), "NHWC"),
        ((1, 3, 5, 0), (32, 32), None),
        ((1, 3, 197, 64), (224, 224), None),  # queries of attention
        ((1, 64, 1, 2), (32, 40), "NCHW"),
        ((1, 2, 3, 64), (64, 96), "NHWC"),
        ((2, 64, 13, 40), (100, 320), "NCHW"),
    ],
)
def test_the_image_s_proportions_tell_the_format(shape, image, expected):
    assert map_format(shape, image) == expected


def norm_inside_a_block():
    """A norm of timm's ConvNeXt that works with the channels last."""
    return "stages.2.blocks.0.norm"


def test_a_layer_with_channels_last_is_weighed_by_its_channels():
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=5).eval()
    images = torch.randn(1, 3, 160, 160)
    name = norm_inside_a_block()
    kept = {}

    def keep(module, inputs, output):
        kept["map"] = output
        output.retain_grad()

    handle = model.get_submodule(name).register_forward_hook(keep)
    model(images)[0, 3].backward()
    handle.remove()
    features, gradients = kept["map"].detach()[0], kept["map"].grad[0]
    assert features.shape[0] == features.shape[1] != features.shape[2]
    expected = (features * gradients.mean((0, 1))).sum(-1)  # (h, w): Grad-CAM, equations 1 and 2
    layer = next(layer for layer in map_layers(model, images) if layer.name == name)
    assert (layer.channels, layer.size) == (features.shape[2], tuple(features.shape[:2]))
    (cam,) = grad_cam(model, images, [3], layer=name)
    torch.testing.assert_close(torch.from_numpy(cam.raw), expected, rtol=1e-4, atol=1e-6)


def test_offsets_of_kernels_are_no_map():
    model = lively("contextual_convnext_micro")
    images = torch.randn(1, 3, 64, 64)
    assert not [layer.name for layer in map_layers(model, images) if layer.name.endswith("weight_offsets")]
    with pytest.raises(LayerError, match=r"no layer .* that returns a map"):
        grad_cam(model, images, [0], layer="stages.1.blocks.0.conv_dw.weight_offsets")


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_where_a_class_was_lost_and_to_whom(selection):
    model = lively("contextual_convnext_micro", num_classes=20, selection=selection)
    image = torch.randn(1, 3, 64, 64)
    answer = int(model(image).argmax())
    seen = set()
    for target in range(20):
        (funnel,) = class_funnel(model, image, [target])
        fates = class_fates(model, [(image, torch.tensor([target]))])
        if target == answer:
            assert funnel.loss() is None
            continue
        loss, step = funnel.loss(), int(fates.lost[0])
        assert loss.step == fates.steps[step]
        assert (loss.to, loss.replaced_by) == (int(fates.winners[0]), int(fates.replaced_by[0]))
        stage = model.forward_stages(image)
        if loss.step != "head":
            assert loss.to == int(stage.classes[step][0, stage.scores[step][0].argmax()])
        seen.add(loss.step)
    assert len(seen) > 1
