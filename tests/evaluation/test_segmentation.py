"""The scores of a segmentation network against counting pixel by pixel, and what it refuses."""

import numpy as np
import pytest
import torch

from _scored import ALONE, scored, segmentation_data, segmentation_scores, segmentation_task
from ctxvision.evaluation import EvaluationError, Source
from ctxvision.evaluation.segmentation import SegmentationEvaluator
from ctxvision.inference import predictor_of


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return segmentation_scores(tmp_path_factory.mktemp("runs") / "run")


def test_numbers_are_those_of_the_whole_set(scores):
    data = segmentation_data()
    task = segmentation_task(data)
    right = labelled = 0
    truth = np.zeros(11, dtype=int)
    for images, masks in (data.on_after_batch_transfer(b, 0) for b in data.val_dataloader()):
        for image, mask in zip(images, masks, strict=True):
            counted = mask != 255
            right += int((task.segment(image).classes == mask)[counted].sum())
            labelled += int(counted.sum())
            truth += np.bincount(mask[counted], minlength=11)
    numbers = scores.numbers
    assert numbers["images"] == 5
    assert numbers["pixel_accuracy"] == pytest.approx(right / labelled)
    assert [row["pixels"] for row in numbers["classes"]] == truth.tolist()
    ious = [row["iou"] for row in numbers["classes"] if row["iou"] is not None]
    assert numbers["miou"] == pytest.approx(sum(ious) / len(ious))
    assert numbers["classes_left_out"] == [row["name"] for row in numbers["classes"] if row["iou"] is None]
    assert sum(pair["pixels"] for pair in numbers["confused"]) <= labelled - right
    assert [e["position"] for e in numbers["examples"]] == [e.position for e in scores.examples] == [0, 1, 3]
    assert (numbers["training"]["best_epoch"], numbers["training"]["best_miou"]) == (2, 0.25)
    assert f"mIoU {numbers['miou']:.2%}" in scores.lines[-1]


def test_nothing_to_score():
    data = segmentation_data()
    evaluator = SegmentationEvaluator(predictor_of(segmentation_task(data)), Source(data, "x", "val"), run=ALONE)
    data.val_dataloader = lambda: []
    with pytest.raises(EvaluationError, match="x: not one image can be read"):
        scored(evaluator)
    data.val_dataloader = lambda: [([torch.zeros(3, 48, 48)], [torch.full((48, 48), 255)])]
    with pytest.raises(EvaluationError, match="not one pixel has a class"):
        scored(evaluator)
