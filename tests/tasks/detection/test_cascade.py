"""Cascade R-CNN: what its stages ask for, hand on, weigh and average."""

import pytest
import torch
from _detectors import calibrated, small, target
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, box_iou
from torchvision.ops.poolers import LevelMapper

from ctxvision.tasks.detection.cascade import BOX_WEIGHTS, IOU_THRESHOLDS, CascadeRoIHeads
from ctxvision.tasks.detection.heads import ClassAgnosticPredictor

SIZE = (64, 64)
FEATURES = {"0": torch.zeros(1, 2, 16, 16), "1": torch.zeros(1, 2, 8, 8)}


class Pool(MultiScaleRoIAlign):
    """RoIAlign that remembers its boxes."""

    def __init__(self, size):
        super().__init__(["0", "1"], size, 1)
        self.scales, self.map_levels, self.seen = [1 / 4, 1 / 8], LevelMapper(2, 3), []

    def forward(self, x, boxes, image_shapes):
        self.seen.append([image.clone() for image in boxes])
        return super().forward(x, boxes, image_shapes)


class Constant(nn.Module):
    """Predicts the same for every RoI."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.ParameterList(torch.tensor(output, dtype=torch.float32) for output in outputs)

    def forward(self, x):
        rows = tuple(output.expand(len(x), *output.shape) for output in self.outputs)
        return rows if len(rows) > 1 else rows[0]


def stage(index, logits=(0.0, 1.0, 2.0), code=(0.0,) * 4, mask_logits=None, sampled=64):
    heads = RoIHeads(
        Pool(7), nn.Flatten(), Constant(logits, code * len(logits)), IOU_THRESHOLDS[index], IOU_THRESHOLDS[index],
        sampled, 0.25, BOX_WEIGHTS[index], 0.0, 0.5, 100,
    )  # fmt: skip
    if mask_logits is not None:
        heads.mask_roi_pool, heads.mask_head = Pool(14), nn.Identity()
        heads.mask_predictor = Constant([[[value] * 28] * 28 for value in mask_logits])
    return heads


def roi_heads_of(detector):
    return detector.network.roi_heads


def test_a_detector_s_stages_ask_for_a_growing_iou_and_scale_their_targets():
    heads = roi_heads_of(small("cascade_rcnn"))
    truth = torch.tensor([[10.0, 10, 30, 30]])
    shifts = torch.tensor([1.0, 4.0, 5.5, 7.5])  # IoU 20·(20 - s) / (400 + 20 s): 0.905, 0.667, 0.569, 0.455
    proposals = truth + shifts[:, None] * torch.tensor([1.0, 0, 1, 0])
    assert [round(iou, 3) for iou in box_iou(truth, proposals)[0].tolist()] == [0.905, 0.667, 0.569, 0.455]
    expected = [[3, 3, 3, 0], [3, 3, 0, 0], [3, 0, 0, 0]]
    assert len(heads.stages) == 3
    for of_stage, labels, weights in zip(heads.stages, expected, BOX_WEIGHTS, strict=True):
        of_stage.fg_bg_sampler.positive_fraction = 1.0
        boxes, _, found, goals = of_stage.select_training_samples(
            [proposals], [{"boxes": truth, "labels": torch.tensor([3])}]
        )
        assert found[0].tolist() == [*labels, 3]  # the ground truth itself is appended
        torch.testing.assert_close(boxes[0], torch.cat([proposals, truth]))
        # centre distance over proposal width, times the coder's first weight
        torch.testing.assert_close(goals[0][:, 0], weights[0] * torch.cat([-shifts, shifts.new_zeros(1)]) / 20)
    assert BOX_WEIGHTS == ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))


def test_regression_is_class_agnostic():
    detector = small("cascade_rcnn")
    for of_stage in roi_heads_of(detector).stages:
        assert of_stage.box_predictor.bbox_pred.weight.shape == (4, 32)
        assert of_stage.box_predictor.cls_score.weight.shape == (5, 32)
    logits, codes = ClassAgnosticPredictor(8, 3)(torch.randn(6, 8))
    assert logits.shape == (6, 4)
    codes = codes.reshape(6, 4, 4)
    assert (codes == codes[:, :1]).all()
    assert codes.std(0).min() > 0


def test_each_stage_gets_the_boxes_that_the_one_before_refined_and_the_ground_truth():
    # each stage moves boxes by its code: dx is its first entry over the coder's weight, in widths
    codes = ((1.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0,) * 4)
    heads = CascadeRoIHeads([stage(i, code=code) for i, code in enumerate(codes)]).train()
    truth = torch.tensor([[8.0, 8, 28, 28], [40, 40, 60, 60]])
    proposals = torch.tensor([[4.0, 4, 24, 24], [30, 10, 50, 30], [44, 20, 64, 40]])
    targets = [{"boxes": truth, "labels": torch.tensor([1, 2])}]
    heads(FEATURES, [proposals], [SIZE], targets)
    seen = [of_stage.box_roi_pool.seen[0][0] for of_stage in heads.stages]
    moved = proposals + torch.tensor([1 / 10 * 20, 0, 1 / 10 * 20, 0])
    moved[2, 2] = 64  # clipped to the image
    wide = moved[:, 2] - moved[:, 0]
    torch.testing.assert_close(wide, torch.tensor([20.0, 20, 18]))
    for found, expected in ((seen[0], proposals), (seen[1], moved)):
        torch.testing.assert_close(found, torch.cat([expected, truth]))
    twice = moved + torch.tensor([0, 2 / 20 * 20, 0, 2 / 20 * 20])
    torch.testing.assert_close(seen[2], torch.cat([twice, truth]))
    # in evaluation there is no ground truth
    heads.eval()(FEATURES, [proposals], [SIZE])
    torch.testing.assert_close(heads.stages[2].box_roi_pool.seen[1][0], twice)


def test_scores_are_the_mean_of_the_stages_probabilities():
    logits = ((0.0, 1.0, 2.0), (1.0, -1.0, 0.5), (3.0, 0.0, 0.0))
    heads = CascadeRoIHeads([stage(i, logits=row) for i, row in enumerate(logits)]).eval()
    proposals = torch.tensor([[4.0, 4, 24, 24], [34, 34, 60, 60]])
    found = heads(FEATURES, [proposals], [SIZE])[0][0]
    mean = torch.tensor(logits).softmax(-1).mean(0)
    assert sorted(found["scores"].tolist()) == pytest.approx(sorted([*mean[1:].tolist()] * 2))
    for label in (1, 2):
        chosen = found["labels"] == label
        torch.testing.assert_close(found["scores"][chosen], mean[label].expand(2))
        assert sorted(found["boxes"][chosen].tolist()) == sorted(proposals.tolist())
    assert (found["scores"].diff() <= 0).all()


def test_masks_are_the_mean_of_the_stages_probabilities():
    values = ((0.0, 1.0, -1.0), (0.0, 2.0, 3.0), (0.0, -0.5, 0.5))
    heads = CascadeRoIHeads([stage(i, mask_logits=row) for i, row in enumerate(values)]).eval()
    found = heads(FEATURES, [torch.tensor([[4.0, 4, 24, 24]])], [SIZE])[0][0]
    mean = torch.tensor(values).sigmoid().mean(0)
    assert found["masks"].shape == (2, 1, 28, 28)
    for label, masks in zip(found["labels"].tolist(), found["masks"], strict=True):
        torch.testing.assert_close(masks, mean[label].expand(1, 28, 28))
    assert paste_masks_in_image(found["masks"], found["boxes"], SIZE).shape == (2, 1, *SIZE)


def test_equal_stages_that_move_nothing_are_the_plain_head():
    plain, cascade = small("mask_rcnn"), small("cascade_mask_rcnn")
    weights = plain.network.state_dict()
    own = cascade.network.state_dict()
    for name in own:
        source = name
        if name.startswith("roi_heads.stages."):
            source = "roi_heads." + name.split(".", 3)[3]
        if ".bbox_pred." in name and "roi_heads" in name:
            own[name].zero_()
        else:
            own[name].copy_(weights[source])
    heads = roi_heads_of(plain).box_predictor
    nn.init.zeros_(heads.bbox_pred.weight), nn.init.zeros_(heads.bbox_pred.bias)
    images = [torch.rand(3, *SIZE) for _ in range(2)]
    calibrated(plain, images)
    cascade.network.backbone.load_state_dict(plain.network.backbone.state_dict())
    with torch.no_grad():
        for expected, found in zip(plain(images), cascade.eval()(images), strict=True):
            assert len(found["boxes"]) == 20
            for key in expected:
                torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_losses_are_weighted_by_stage_and_gradients_reach_every_stage():
    images, targets = [torch.rand(3, *SIZE)], [target(*SIZE)]
    detector = small("cascade_mask_rcnn").train()
    torch.manual_seed(1)
    losses = detector(images, targets)
    roi_heads_of(detector).loss_weights = (1.0, 1.0, 1.0)
    torch.manual_seed(1)
    unweighted = detector(images, targets)
    for number, weight in ((1, 1.0), (2, 0.5), (3, 0.25)):
        for name in ("loss_classifier", "loss_box_reg", "loss_mask"):
            assert losses[f"{name}_{number}"] > 0
            torch.testing.assert_close(
                losses[f"{name}_{number}"], weight * unweighted[f"{name}_{number}"], rtol=1e-4, atol=1e-6
            )
    sum(losses.values()).backward()
    for of_stage in roi_heads_of(detector).stages:
        for name, parameter in of_stage.named_parameters():
            assert parameter.grad.abs().max() > 0, name
    with pytest.raises(ValueError, match="2 stages need as many loss weights, got 3"):
        CascadeRoIHeads([stage(0), stage(1)])


def test_stages_do_not_send_gradients_through_the_boxes():
    codes = ((1.0, 0.0, 0.0, 0.0), (0.0,) * 4, (0.0,) * 4)
    heads = CascadeRoIHeads([stage(i, code=code) for i, code in enumerate(codes)]).train()
    targets = [{"boxes": torch.tensor([[8.0, 8, 28, 28]]), "labels": torch.tensor([1])}]
    losses = heads(FEATURES, [torch.tensor([[9.0, 9, 28, 28]])], [SIZE], targets)[1]
    (losses["loss_classifier_2"] + losses["loss_box_reg_3"]).backward()
    assert all(parameter.grad is None for parameter in heads.stages[0].parameters())
