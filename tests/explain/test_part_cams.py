"""Grad-CAM for boxes, for the pixels of a class and for clips, against gradients taken by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget

from _networks import lively, same_state, state
from ctxvision.explain import (
    LayerError,
    box_cams,
    box_layers,
    contextual_offsets,
    frame_cams,
    generated_kernels,
    map_layers,
    pixel_cams,
)
from ctxvision.explain.detection import same_object
from ctxvision.explain.layers import last_of_each_stage
from ctxvision.tasks.detection import build_detector
from ctxvision.tasks.segmentation import build_network
from ctxvision.tasks.video import VideoTask

pytestmark = pytest.mark.slow

DETECTOR = {
    "num_classes": 3, "width": 16, "hidden": 32, "norm": "batch", "test_proposals": 30, "min_size": 64,
    "max_size": 128, "anchor_sizes": (8, 16, 32, 48, 64), "score_threshold": 0.0, "detections": 8,
}  # fmt: skip


def detector(kind="faster_rcnn", backbone="cotnet_micro", **options):
    model = build_detector(kind, backbone, **{**DETECTOR, **options}).eval()
    for name, parameter in model.named_parameters():
        if "cls_score" in name or "cls_logits" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def by_hand(model, image, layer, score):
    """Activations and gradients at a layer, (C, h, w) each, by autograd alone."""
    seen = []

    def replace(_module, _inputs, output):
        seen.append(output)
        return output.clone()  # what follows may work in place

    handle = model.get_submodule(layer).register_forward_hook(replace)
    value = score(model(image[None])[0])
    handle.remove()
    (gradient,) = torch.autograd.grad(value, seen[0])
    return seen[0][0].detach(), gradient[0]


def agrees(found, expected):
    assert expected.abs().max() > 0
    torch.testing.assert_close(
        torch.from_numpy(found), expected.float(), rtol=2e-3, atol=2e-4 * expected.abs().max().item()
    )


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [
        ("faster_rcnn", "cotnet_micro"),
        ("mask_rcnn", "contextual_convnext_micro"),
        ("cascade_rcnn", "rednet_micro"),
        ("retinanet", "resnet10t"),
    ],
)
@pytest.mark.parametrize("layer", [None, "network.backbone.features.norms.2"])
def test_boxes_are_explained_by_their_scores(kind, backbone, layer):
    model, image = detector(kind, backbone), torch.rand(3, 80, 96)
    with torch.no_grad():
        (found,) = model([image])
    for index in (0, 5):
        box, label = found["boxes"][index], int(found["labels"][index])
        (cam,) = box_cams(model, image, box[None], [label], layer=layer)
        assert (cam.label, cam.score) == (label, pytest.approx(float(found["scores"][index])))
        np.testing.assert_allclose(cam.box, box.numpy(), atol=1e-4)
        maps, gradient = by_hand(model, image, cam.cam.layer.name, lambda y, i=index: y["scores"][i])
        agrees(cam.cam.raw, (gradient.mean((1, 2), keepdim=True) * maps).sum(0))
        # what pytorch-grad-cam explains in a detector
        target = FasterRCNNBoxScoreTarget([label], box[None].numpy())
        _, theirs = by_hand(model, image, cam.cam.layer.name, lambda y, t=target: t(y).sum())
        torch.testing.assert_close(theirs, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())
        in_place = spread((gradient * maps).sum(0), model, image)
        torch.testing.assert_close(torch.from_numpy(cam.cam.in_place), in_place, rtol=0, atol=2e-3)
        torch.testing.assert_close(
            torch.from_numpy(cam.cam.map), spread(torch.from_numpy(cam.cam.raw), model, image), rtol=0, atol=1e-4
        )


def spread(raw, model, image):
    """Over the image, pixel by pixel: where each lies in what the detector enlarged and padded."""
    images, _ = model.network.transform([image])
    height, width = images.tensors.shape[2:]
    inside = images.image_sizes[0]
    padded = F.interpolate(raw.clamp(min=0)[None, None], (height, width), mode="bilinear")[0, 0]
    rows = (torch.arange(image.shape[1]) + 0.5) * inside[0] / image.shape[1] - 0.5
    columns = (torch.arange(image.shape[2]) + 0.5) * inside[1] / image.shape[2] - 0.5

    def between(values, places, dim):
        low = places.floor().clamp(0, values.shape[dim] - 1).long()
        high = (low + 1).clamp(max=values.shape[dim] - 1)
        share = (places - low).clamp(0, 1).view(-1, 1) if dim == 0 else (places - low).clamp(0, 1)
        return values.index_select(dim, low) * (1 - share) + values.index_select(dim, high) * share

    heat = between(between(padded[: inside[0], : inside[1]], rows, 0), columns, 1)
    return heat / (heat.max() or 1)  # nothing speaks for the score: no heat


def test_a_box_is_read_from_the_level_of_its_size():
    """The level is that of RoIAlign (FPN, equation 1), whatever the score."""
    model, image = (
        detector(min_size=256, max_size=256, anchor_sizes=(16, 32, 64, 128, 256)),
        torch.rand(3, 256, 256),
    )
    pooled = []
    handle = model.network.roi_heads.box_roi_pool.register_forward_pre_hook(
        lambda _m, args: pooled.append(args[1][0])
    )
    with torch.no_grad():
        (found,) = model([image])
    handle.remove()
    levels = set(model.network.roi_heads.box_roi_pool.map_levels([pooled[0]]).tolist())
    cams = box_cams(model, image, found["boxes"], found["labels"])
    assert {int(cam.cam.layer.name[-1]) for cam in cams} <= levels
    for cam in cams:
        assert cam.cam.in_place.max() == pytest.approx(1, abs=1e-5)


def test_evidence_in_place_lies_at_the_box():
    """Beyond what RoIAlign reads, the pyramid's level has no gradient at all."""
    model, image = detector(min_size=256, max_size=256), torch.rand(3, 256, 256)
    with torch.no_grad():
        (found,) = model([image])
    small = next(
        i for i, box in enumerate(found["boxes"]) if (box[2:] - box[:2]).max() < 130 and found["scores"][i] > 0
    )
    (cam,) = box_cams(model, image, found["boxes"][small : small + 1], found["labels"][small : small + 1])
    assert (cam.cam.in_place > 0).mean() < 0.5 < (cam.cam.map > 0).mean() + 0.5


def test_a_box_that_is_not_found_has_no_explanation():
    model, image = detector(), torch.rand(3, 64, 64)
    with torch.no_grad():
        (found,) = model([image])
    label = int(found["labels"][0])
    somewhere = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    boxes = torch.cat([somewhere, found["boxes"][:1]])
    missing, cam = box_cams(model, image, boxes, [label, label])
    assert missing is None
    assert cam is not None
    assert box_cams(model, image, np.zeros((0, 4)), []) == []
    with pytest.raises(ValueError, match="2 boxes and 1 labels"):
        box_cams(model, image, boxes, [1])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert same_object(nothing, somewhere[0], 1) is None
    overlapping = {"boxes": torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 9, 10]]), "labels": torch.tensor([1, 2])}
    assert same_object(overlapping, torch.tensor([0.0, 0, 10, 10]), 2) == 1  # the other label overlaps more


def test_only_layers_that_see_the_whole_image_are_taken():
    model, image = detector(), torch.rand(3, 64, 64)
    with pytest.raises(LayerError, match=r"no layer 'network.roi_heads.box_roi_pool'.*ends of the stages are"):
        box_cams(model, image, [[0, 0, 9, 9]], [1], layer="network.roi_heads.box_roi_pool")
    stages = [layer.name for layer in box_layers(model, image) if layer.stage]
    assert stages == [f"network.backbone.features.body.layer{n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("rednet_micro", None),
        ("contextual_convnext_micro", None),
        ("cotnet_micro", "decoder"),
        ("convnext_atto", "backbone.norms.1"),
    ],
)
def test_pixels_of_a_class_are_explained_by_their_logits(backbone, layer):
    # in float64: channels cancel each other out
    model, image = build_network(backbone, 4).double().eval(), torch.randn(3, 96, 128).double()
    if layer == "decoder":
        layer = next(x.name for x in map_layers(model, image[None]) if x.name.startswith("decoder."))
    with torch.no_grad():
        classes = model(image[None])[0].argmax(0)
    cams = pixel_cams(model, image, layer=layer)
    counts = [int((classes == cam.cam.target).sum()) for cam in cams]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == classes.numel()
    for cam in cams[:2]:
        c = cam.cam.target
        np.testing.assert_array_equal(cam.mask, (classes == c).numpy())
        maps, gradient = by_hand(model, image, cam.cam.layer.name, lambda y, c=c: y[c][classes == c].sum())
        agrees(cam.cam.raw, (gradient.mean((1, 2), keepdim=True) * maps).sum(0))
        heat = F.interpolate((gradient * maps).sum(0).clamp(min=0)[None, None], (96, 128), mode="bilinear")[0, 0]
        torch.testing.assert_close(
            torch.from_numpy(cam.cam.in_place), (heat / heat.max()).float(), rtol=0, atol=2e-3
        )


def test_a_class_without_pixels_has_an_empty_map():
    model, image = build_network("rednet_micro", 4).eval(), torch.randn(3, 64, 64)
    convolutions = [module for module in model.decoder.modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        convolutions[-1].bias[2] = -100.0
    (cam,) = pixel_cams(model, image, [2])
    assert not cam.mask.any()
    assert not cam.cam.map.any()
    assert not cam.cam.in_place.any()
    with pytest.raises(ValueError, match=r"0..3, got \[4\]"):
        pixel_cams(model, image, [4])
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        pixel_cams(model, image, [0], layer="nowhere")


@pytest.mark.parametrize(("backbone", "shift"), [("cotnet_micro", "both"), ("resnet10t", "none")])
def test_frames_are_explained_by_the_logit_of_the_clip(backbone, shift):
    spec = {"class_names": ["a", "b", "c"], "input_size": [3, 64, 64], "frames": 4}
    task, clip = VideoTask(backbone, spec, shift=shift).eval(), torch.randn(5, 3, 64, 64)
    found = next(cams for c in range(3) if (cams := frame_cams(task, clip, c)).maps.any())
    assert task.model(torch.randn(5, 3, 64, 64)).shape == (5, 3)  # the shifts are as they were, for five frames
    seen = []

    def keep(_module, _inputs, output):
        seen.append(output)
        return output.clone()

    handle = task.model.get_submodule(found.layer.name).register_forward_hook(keep)
    logit = task(clip[None])[0, found.target]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, seen[0])
    agrees(found.raw, (gradient.mean((2, 3), keepdim=True) * seen[0].detach()).sum(1))
    assert found.maps.max() == pytest.approx(1)
    assert (found.maps.max((1, 2)) < 1).sum() == 4  # one scale for all frames
    assert frame_cams(task, clip).target == int(task(clip[None])[0].argmax())
    with pytest.raises(ValueError, match=r"0..2, got 3"):
        frame_cams(task, clip, 3)


def test_networks_stay_as_they_were():
    model, image = detector().train(), torch.rand(3, 64, 64)
    for parameter in list(model.parameters())[:5]:
        parameter.grad = torch.ones_like(parameter)
    model.eval()
    with torch.no_grad():
        (found,) = model([image])
    model.train()
    before = state(model)
    with torch.inference_mode():
        box_cams(model, image, found["boxes"][:1].clone(), found["labels"][:1])
    assert same_state(before, state(model))


@pytest.mark.parametrize("backbone", ["contextual_convnext_micro", "contextual_resnet50", "cotnet_micro"])
def test_what_layers_do_in_a_backbone_is_what_they_do_alone(backbone):
    """The collectors take any network: names lead to the same layers, pixels are those of the image."""
    model, image = build_network(backbone, 3).eval(), torch.randn(1, 3, 64, 96)
    alone = lively(backbone, num_classes=1000)
    weights = {name.removeprefix("model."): value for name, value in model.backbone.body.state_dict().items()}
    alone.load_state_dict(weights, strict=False)
    collect = generated_kernels if backbone == "cotnet_micro" else contextual_offsets
    inside, outside = collect(model, image), collect(alone, image)
    names = [layer.name for layer in inside if layer.name.startswith("backbone.")]
    assert [name.split("body.")[1].removeprefix("model.") for name in names] == [layer.name for layer in outside]
    for one, other in zip(inside, outside, strict=False):
        if collect is contextual_offsets:
            np.testing.assert_array_equal(one.regular, other.regular)
            assert one.grid == other.grid
        else:
            assert one.kernels.shape == other.kernels.shape
    stages = [stage for stage, _ in last_of_each_stage(model, names)]
    assert stages == [stage for stage, _ in last_of_each_stage(alone, [layer.name for layer in outside])]
