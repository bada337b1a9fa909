"""Scores of small untrained networks on the embedded data, for the tests of evaluation and of pages."""

import csv
from pathlib import Path

import torch

from ctxvision.data import DetectionData, SegmentationData, VideoData
from ctxvision.evaluation import Source, score
from ctxvision.evaluation.detection import DetectionEvaluator
from ctxvision.evaluation.segmentation import SegmentationEvaluator
from ctxvision.evaluation.video import VideoEvaluator
from ctxvision.inference import predictor_of
from ctxvision.runs import Run, read_run
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

ALONE = Run(Path("best.ckpt"), (), {})


def scored(evaluator):
    return score(evaluator, evaluator.source.batches(torch.device("cpu")))


def run_folder(root, rows, settings=""):
    """Make what a training of these rows of metrics leaves, without weights."""
    (root / "checkpoints").mkdir(parents=True)
    (root / "checkpoints" / "best.ckpt").write_bytes(b"")
    with (root / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", *rows[0]])
        writer.writeheader()
        writer.writerows({"epoch": number} | row for number, row in enumerate(rows, 1))
    (root / "config.yaml").write_text(settings)
    return read_run(root)


def detection_task():
    torch.manual_seed(0)
    spec = DetectionData("digits-scenes#train=1,val=1,size=64").spec
    options = {"width": 16, "hidden": 16, "norm": "batch", "test_proposals": 20, "min_size": 64, "max_size": 96}
    sizes = {"anchor_sizes": (12, 20, 32, 48, 80), "score_threshold": 0.0, "detections": 5}
    return DetectionTask("rednet_micro", spec.to_dict(), detector="mask_rcnn", **options, **sizes).eval()


def detection_scores(files, run=ALONE):
    data = DetectionData(files, masks=True, batch_size=2, train=False)
    source = Source(data, "<scenes>", "val")
    return scored(DetectionEvaluator(predictor_of(detection_task()), source, examples=3, threshold=0.0, run=run))


def segmentation_data():
    torch.manual_seed(0)
    return SegmentationData("digits-scenes#train=2,val=5,size=48", eval_batch_size=2)


def segmentation_task(data):
    torch.manual_seed(0)
    small = {"pyramid_channels": 16, "channels": 16}
    return SegmentationTask("rednet_micro", data.spec.to_dict(), decoder_args=small).eval()


def segmentation_scores(folder):
    losses = [{"train_loss": 2.5, "val_loss": 2.6}, {"train_loss": 2.0, "val_loss": 2.1}]
    rows = [losses[0] | {"val_miou": ""}, losses[1] | {"val_miou": 0.25}, losses[1] | {"val_miou": 0.24}]
    run = run_folder(folder, rows, "data: digits-scenes<b>\nlr: 0.1\n")
    data = segmentation_data()
    source = Source(data, "digits-scenes<b>", "val")
    return scored(SegmentationEvaluator(predictor_of(segmentation_task(data)), source, examples=3, run=run))


def video_data():
    return VideoData("moving-digits#train=8,val=16", frames=3, batch_size=4)


def video_task(data, shift="both", model="contextual_convnext_micro"):
    torch.manual_seed(0)
    return VideoTask(model, data.spec.to_dict(), shift=shift).eval()


def video_scores(data, shift="both", run=ALONE):
    source = Source(data, "<moving>", "val")
    return scored(VideoEvaluator(predictor_of(video_task(data, shift)), source, examples=1, run=run))
