"""torchvision: its detectors, segmentation networks and feature extractors on our networks."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import detection, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import MultiScaleRoIAlign

import ctxvision.models  # noqa: F401

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGETS = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])} for _ in range(2)]
SMALL_FPN = 32


def stages_of(model):
    return [entry["module"] for entry in model.feature_info if entry["reduction"] >= 4]


def with_fpn(model):
    entries = [entry for entry in model.feature_info if entry["reduction"] >= 4]
    if "." in entries[0]["module"]:  # torchvision looks among the children
        model.head = nn.Identity()
    names = {entry["module"]: str(index) for index, entry in enumerate(entries)}
    return BackboneWithFPN(model, names, [entry["num_chs"] for entry in entries], SMALL_FPN)


class Levels(nn.Module):
    """What the page shows: timm's feature levels under the names that torchvision's heads read."""

    def __init__(self, body):
        super().__init__()
        self.body, self.out_channels = body, body.feature_info.channels()[-1]

    def forward(self, x):
        return {"0": self.body(x)[-1]}


@pytest.mark.parametrize("network", ["cotnet_micro", "rednet_micro"])
def test_backbone_with_fpn_takes_the_whole_network(network):
    backbone = with_fpn(timm.create_model(network))
    shapes = [tuple(level.shape) for level in backbone(IMAGES).values()]
    assert shapes == [(2, SMALL_FPN, size, size) for size in (16, 8, 4, 2, 1)]


def test_backbone_with_fpn_on_a_contextual_network():
    """Its parts are called one after the other, so that it has to be the whole network that hands on the prior."""
    model = timm.create_model("contextual_resnet50", depths=(1, 1, 1, 1), planes=(16, 16, 32, 32)).eval()
    backbone = with_fpn(model)
    shapes = [tuple(level.shape) for level in backbone(IMAGES).values()]
    assert shapes == [(2, SMALL_FPN, size, size) for size in (16, 8, 4, 2, 1)]


@pytest.mark.parametrize("network", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
@pytest.mark.parametrize("kind", ["FasterRCNN", "RetinaNet", "FCOS"])
def test_detector_takes_a_training_step(network, kind):
    torch.manual_seed(0)
    body = Levels(timm.create_model(network, features_only=True))
    sizes = {"min_size": 64, "max_size": 64}
    anchors = detection.rpn.AnchorGenerator(((16,) if kind == "FCOS" else (16, 32),), ((1.0,),))
    if kind == "FasterRCNN":
        pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
        model = detection.FasterRCNN(body, 3, rpn_anchor_generator=anchors, box_roi_pool=pool, **sizes)
    else:
        model = getattr(detection, kind)(body, 3, anchor_generator=anchors, **sizes)
    losses = model.train()(list(IMAGES), TARGETS)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    with torch.inference_mode():
        assert len(model.eval()(list(IMAGES))) == 2


@pytest.mark.parametrize("network", ["cotnet_micro", "rednet_micro"])
@pytest.mark.parametrize("kind", ["DeepLabV3", "FCN"])
def test_segmentation_takes_a_training_step(network, kind):
    model = timm.create_model(network)
    last = model.feature_info[-1]
    body = IntermediateLayerGetter(model, {last["module"]: "out"})
    heads = {"DeepLabV3": segmentation.deeplabv3.DeepLabHead, "FCN": segmentation.fcn.FCNHead}
    whole = getattr(segmentation, kind)(body, heads[kind](last["num_chs"], 3))
    found = whole.train()(IMAGES)["out"]
    found.square().mean().backward()
    assert found.shape == (2, 3, 64, 64)


def test_feature_extractor_by_fx(build):
    model = build().eval()
    module = model.feature_info[-2]["module"]
    extractor = create_feature_extractor(model, {module: "level"})
    with torch.inference_mode():
        expected = model.forward_intermediates(
            IMAGES, indices=[len(model.feature_info) - 2], intermediates_only=True
        )
        assert torch.allclose(extractor(IMAGES)["level"], expected[0], rtol=1e-4, atol=1e-5)
    assert any(name.startswith(module) for name in get_graph_node_names(model)[1])


def test_symbolic_trace_computes_the_same_at_another_size(build):
    model = build().eval()
    traced = torch.fx.symbolic_trace(model)
    larger = torch.randn(3, 3, 96, 64)
    with torch.inference_mode():
        assert torch.allclose(traced(larger), model(larger), rtol=1e-4, atol=1e-5)
