"""Detectors over any backbone: feature maps, norms, layouts, precision, weights and errors."""

import pytest
import timm
import torch
from _detectors import calibrated, small, target
from torch import nn

from ctxvision.checkpoints import CheckpointError
from ctxvision.nn import Involution2d
from ctxvision.tasks import TaskError
from ctxvision.tasks.detection import build_detector
from ctxvision.tasks.features import FeatureBackbone, make_involution

OURS = ("cotnet_micro", "rednet_micro", "contextual_convnext_micro")
THEIRS = ("resnet10t", "convnext_atto", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224")
FLEXIBLE = {"swin_tiny_patch4_window7_224": {"model_args": {"strict_img_size": False}}}
BatchNorm = nn.modules.batchnorm._BatchNorm


def body_of(detector):
    return detector.network.backbone.features.body


def on_meta(name, backbone, **settings):
    with torch.device("meta"):
        return build_detector(name, backbone, num_classes=3, width=16, hidden=16, **settings)


@pytest.mark.parametrize("backbone", [*OURS, *THEIRS])
def test_any_backbone_trains_and_detects_at_odd_sizes(backbone):
    detector = small("mask_rcnn", backbone, **FLEXIBLE.get(backbone, {}))
    images = [torch.rand(3, 45, 71), torch.rand(3, 33, 50)]
    with torch.no_grad():
        found = detector.eval()(images)
    assert all(len(one["boxes"]) for one in found)
    losses = detector.train()(images, [target(45, 71), target(33, 50, ())])
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    first = next(p for p in body_of(detector).parameters() if p.requires_grad)
    assert first.grad.abs().max() > 0


@pytest.mark.parametrize("backbone", [*OURS, *THEIRS])
def test_feature_maps_are_those_of_the_network_normalised_where_it_does_not(backbone):
    args = FLEXIBLE.get(backbone, {}).get("model_args")
    features = FeatureBackbone(backbone, (4, 8, 16, 32), model_args=args).eval()
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = features(image)
        raw = features.body(image)[-4:]
    sizes = [(2, c, 64 // s, 96 // s) for c, s in zip(features.channels, features.strides, strict=True)]
    assert [tuple(feature.shape) for feature in maps] == sizes
    has_batch_norm = any(isinstance(m, BatchNorm) for m in timm.create_model(backbone).modules())
    assert has_batch_norm == all(isinstance(norm, nn.Identity) for norm in features.norms)
    for feature, before in zip(maps, raw, strict=True):
        if has_batch_norm:
            torch.testing.assert_close(feature, before)
        else:
            torch.testing.assert_close(feature.mean(1), torch.zeros_like(feature.mean(1)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("neck", ["convolution", "involution"])
@pytest.mark.parametrize("head", ["convolution", "involution"])
def test_neck_and_head_replace_what_they_say(neck, head):
    network = on_meta("mask_rcnn", "resnet10t", neck=neck, head=head).network
    parts = {
        "neck": [network.backbone.fpn.layer_blocks[i] for i in range(4)],
        "head": [network.rpn.head.conv, *network.roi_heads.mask_head],
    }
    for part, kind in (("neck", neck), ("head", head)):
        for layer in parts[part]:
            found = [m for m in layer.modules() if isinstance(m, Involution2d)]
            assert len(found) == (kind == "involution")
            assert all(m.kernel_size == 7 for m in found)
            assert any(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in layer.modules()) == (
                kind == "convolution"
            )
    assert not any(isinstance(m, Involution2d) for m in network.backbone.fpn.inner_blocks.modules())


def test_an_involution_without_a_norm_begins_at_the_scale_of_its_input():
    layers = nn.Sequential(*(make_involution(64) for _ in range(4)))
    x = torch.randn(4, 64, 14, 14)
    ratio = (layers(x).std() / x.std()).item()
    assert 0.2 < ratio < 5
    for layer in layers:
        layer.span.reset_parameters()
    assert layers(x).std() / x.std() > 10


@pytest.mark.parametrize("norm", ["frozen", "eval", "batch", "sync"])
def test_what_batch_norms_of_the_backbone_do(norm):
    detector = small(norm=norm).train()
    layers = [m for m in body_of(detector).modules() if hasattr(m, "running_mean")]
    before = [(m.running_mean.clone(), m.weight.detach().clone()) for m in layers]
    images = [torch.rand(3, 64, 64)] * 2
    sum(detector(images, [target(64, 64)] * 2).values()).backward()
    torch.optim.SGD(detector.parameters(), lr=0.1).step()
    moved = [not torch.equal(m.running_mean, mean) for m, (mean, _) in zip(layers, before, strict=True)]
    learnt = [not torch.equal(m.weight, weight) for m, (_, weight) in zip(layers, before, strict=True)]
    assert len(layers) > 10
    assert set(moved) == {norm in ("batch", "sync")}
    assert any(learnt) == (norm != "frozen")
    assert any(isinstance(m, nn.SyncBatchNorm) for m in detector.modules()) == (norm == "sync")
    detector.train().eval()
    assert not any(m.training for m in detector.modules())


def test_norms_in_the_heads_are_those_of_resnest_s_detectors():
    network = on_meta(
        "cascade_mask_rcnn", "resnet10t", box_head="4conv1fc", norm_in_heads=True, norm="sync"
    ).network
    assert not any(type(m) is nn.BatchNorm2d for m in network.modules())
    count = {
        name: sum(isinstance(m, nn.SyncBatchNorm) for m in module.modules())
        for name, module in (("fpn", network.backbone.fpn), ("rpn", network.rpn))
    }
    assert count == {"fpn": 8, "rpn": 0}
    for stage in network.roi_heads.stages:
        assert sum(isinstance(m, nn.SyncBatchNorm) for m in stage.box_head.modules()) == 4
        assert sum(isinstance(m, nn.Linear) for m in stage.box_head.modules()) == 1
        assert sum(isinstance(m, nn.SyncBatchNorm) for m in stage.mask_head.modules()) == 4


@pytest.mark.parametrize("backbone", ["resnet10t", "rednet_micro", "convnext_atto", "contextual_convnext_micro"])
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_frozen_stages_are_the_stem_and_the_first(backbone, stages):
    detector = small(backbone=backbone, norm="eval", frozen_stages=stages).train()
    sum(detector([torch.rand(3, 64, 64)], [target(64, 64)]).values()).backward()
    body = body_of(detector)
    by_stage = {True: set(), False: set()}
    for name, parameter in body.named_parameters():
        digits = [int(c) for c in name.replace("layer", "stages_").replace(".", "_").split("_") if c.isdigit()]
        in_stage = "layer" in name or "stages" in name
        number = (digits[0] + ("stages" in name)) if in_stage else (9 if "context" in name else 0)
        by_stage[parameter.requires_grad].add(number)
    frozen = set(range(stages + 1)) if stages else set()
    # a contextual network itself freezes, under "context", what no feature depends on
    assert by_stage[False] - {9} == frozen
    assert by_stage[True] - {9} == set(range(5)) - frozen


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
def test_channels_last_changes_nothing(detector):
    model = calibrated(small(detector).double(), [torch.rand(3, 64, 64, dtype=torch.float64)] * 2)
    images = [torch.rand(3, 64, 80, dtype=torch.float64)]
    with torch.no_grad():
        expected = model(images)[0]
        layouts = []
        model.network.backbone.register_forward_hook(lambda m, args, output: layouts.append(output["0"]))
        found = model.to(memory_format=torch.channels_last)(images)[0]
    assert layouts[0].is_contiguous(memory_format=torch.channels_last)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-8)


def test_boxes_keep_their_precision_in_bfloat16():
    """Without regression every box is an anchor; in bfloat16 there is none between 256 and 258."""
    detector = small(min_size=640, max_size=700, anchor_sizes=(34, 66, 70, 98, 130), nms_threshold=0.9).eval()
    heads = detector.network
    for layer in (heads.rpn.head.bbox_pred, heads.roi_heads.box_predictor.bbox_pred):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        boxes = detector([torch.rand(3, 640, 640)])[0]["boxes"]
    assert boxes.dtype == torch.float32
    inside = boxes[(boxes > 0) & (boxes < 640)]
    assert (inside > 256).any()
    torch.testing.assert_close(inside, inside.round())
    assert ((inside > 256) & (inside % 2 == 1)).any()


@pytest.mark.parametrize("detector", ["cascade_mask_rcnn", "retinanet"])
def test_losses_in_bfloat16_are_near_those_in_float32(detector):
    model = small(detector).train()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model([torch.rand(3, 64, 64)], [target(64, 64)]))
    for key, loss in losses[0].items():
        assert losses[1][key].dtype == torch.float32
        assert losses[1][key].item() == pytest.approx(loss.item(), rel=0.1, abs=0.02)


def test_grey_images_and_their_statistics():
    detector = small(in_chans=1)
    assert detector.network.transform.image_mean == pytest.approx([0.449], abs=1e-9)
    with torch.no_grad():
        assert len(detector.eval()([torch.rand(1, 50, 60)])[0]["boxes"])
    assert small(in_chans=1, image_mean=(0.1,), image_std=(0.3,)).network.transform.image_std == [0.3]


@pytest.mark.parametrize("backbone", [*OURS, "resnet10t", "convnext_atto", "mobilenetv3_small_050"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_classifier_s_weights_become_the_backbone_s(backbone, norm):
    classifier = timm.create_model(backbone)
    for buffer in classifier.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    detector = small(backbone=backbone, norm=norm).eval()
    detector.features.load_classifier(classifier.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = body_of(detector)(image)[-1]
        expected = classifier.eval().forward_intermediates(image, indices=1, intermediates_only=True)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_warm_starts_from_files_and_other_classes(norm, tmp_path):
    classifier = timm.create_model("rednet_micro", num_classes=7)
    path = tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), path)
    detector = small(norm=norm)
    report = detector.features.start_from(str(path))
    assert "layer4.0.conv3.weight" in report.loaded
    torch.testing.assert_close(body_of(detector).layer4[0].conv3.weight, classifier.layer4[0].conv3.weight)
    with pytest.raises(CheckpointError, match="the weights of another kind of network"):
        detector.features.start_from(timm.create_model("cotnet_micro"))


def test_a_contextual_backbone_keeps_the_class_embeddings_of_its_weights():
    name = "contextual_convnext_micro"
    classifier = timm.create_model(name, num_classes=10)
    same, other = (small(backbone=name, model_args=args) for args in ({"context_classes": 10}, None))
    for detector in (same, other):
        detector.features.start_from(classifier)
    embeddings = classifier.context.embedding.weight
    assert torch.equal(body_of(same).model.context.embedding.weight, embeddings)
    assert body_of(other).model.context.embedding.weight.shape == (1000, embeddings.shape[1])
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = body_of(same).eval()(image)[-1]
        expected = classifier.eval().forward_features(image)
    torch.testing.assert_close(found, expected)


def test_weights_of_another_network_are_refused_and_nothing_changes():
    detector = small(backbone="resnet10t")
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    with pytest.raises(TaskError, match=r"the weights have no 'conv1\.0\.weight'"):
        detector.features.load_classifier(timm.create_model("convnext_atto").state_dict())
    wrong = timm.create_model("resnet10t").state_dict()
    wrong["layer4.0.conv1.weight"] = torch.zeros(3, 3)
    with pytest.raises(TaskError, match=r"'layer4.0.conv1.weight' has shape \(3, 3\), not \(512, 256, 3, 3\)"):
        detector.features.load_classifier(wrong)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detector": "yolo"}, "detector must be faster_rcnn, .* or retinanet, got 'yolo'"),
        ({"neck": "attention"}, "neck must be convolution or involution, got 'attention'"),
        ({"head": "deconv"}, "head must be convolution or involution"),
        ({"box_head": "1fc"}, "box_head must be 2fc or 4conv1fc"),
        ({"norm": "group"}, "norm must be frozen, eval, batch or sync"),
        ({"backbone": "resnet51"}, "unknown model 'resnet51'; did you mean resnet"),
        (
            {"backbone": "vit_tiny_patch16_224"},
            "vit_tiny_patch16_224 has feature maps of stride 16; this network",
        ),
        ({"backbone": "resmlp_12_224"}, "resmlp_12_224"),
        (
            {"backbone": "contextual_convnext_micro", "model_args": {"depth": 3}},
            "model_args of contextual_convnext_micro: no argument 'depth', did you mean depths",
        ),
        ({"detector": "retinanet", "head": "involution"}, "retinanet has no region proposals and no RoI heads"),
        ({"detector": "retinanet", "box_head": "4conv1fc"}, "retinanet has no region proposals and no RoI heads"),
        ({"neck": "involution", "width": 24}, "width must be a multiple of 16 for involutions, got 24"),
        ({"anchor_sizes": (32, 64)}, r"anchor_sizes must be five positive sizes, .*, got \(32, 64\)"),
        ({"anchor_sizes": (0, 1, 2, 3, 4)}, "anchor_sizes must be five positive sizes"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"detections": -1}, "detections must be at least 1, got -1"),
        ({"frozen_stages": 5}, "frozen_stages must be 0 to 4 for resnet10t, got 5"),
        ({"min_size": (480, 900), "max_size": 640}, r"min_size must be .* from 1 to max_size 640"),
        ({"min_size": ()}, "min_size must be one or several"),
        ({"image_mean": (0.5,)}, r"image_mean must have a value for each of 3 channels, got \(0.5,\)"),
        ({"in_chans": 1, "image_std": (0.5,) * 3}, "image_std must have a value for each of 1 channels"),
        ({"detector": "retinanet", "extra_levels_from": "stem"}, "extra_levels_from must be backbone or pyramid"),
    ],
)
def test_settings_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(TaskError, match=message) as raised, torch.device("meta"):
        build_detector(**{"detector": "faster_rcnn", "backbone": "resnet10t", "num_classes": 3, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("width", [256, 32])
def test_towers_of_retinanet_begin_at_the_papers_gain_whatever_their_width(width):
    torch.manual_seed(0)
    head = build_detector("retinanet", "cotnet_micro", num_classes=3, width=width).network.head
    features = torch.randn(4, width, 24, 24)
    with torch.no_grad():
        for tower in (head.classification_head.conv, head.regression_head.conv):
            gain = (tower(features).std() / features.std()).item()
            assert 0.004 < gain < 0.02  # of 32 channels with the deviation for 256 it was 0.0001
