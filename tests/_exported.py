"""A small lively network of each task, of the classes of the embedded data, in files of every kind."""

import contextlib
import io

import torch

from _checkpoints import detection_task, enliven, segmentation_task, video_task, write_task
from ctxvision.cli import main
from ctxvision.data import DetectionData, DigitsData, SegmentationData, VideoData
from ctxvision.publish import publish
from ctxvision.tasks import ClassificationTask

SCENES = "digits-scenes#train=8,val=4"
CLIPS = "moving-digits#train=8,val=16"
DATA = {"classification": "digits", "detection": SCENES, "segmentation": SCENES, "video": CLIPS}


def _classification():
    torch.manual_seed(0)
    small = {"depths": [1] * 4, "contextual_blocks": [1] * 4, "dims": [8, 8, 8, 16], "stages": [3, 4]}
    small |= {"dim": 8, "merge_hidden": 8, "weight_hidden": 8}
    return enliven(ClassificationTask("contextual_convnext_micro", DigitsData().spec.to_dict(), model_args=small))


def _detection():
    spec = DetectionData(SCENES, masks=True).spec.to_dict()
    return detection_task("mask_rcnn", spec=spec, detections=5)


def _segmentation():
    small = {"pyramid_channels": 16, "channels": 16}
    return segmentation_task(spec=SegmentationData(SCENES).spec.to_dict(), decoder_args=small)


def _video():
    return video_task(spec=VideoData(CLIPS, frames=4, image_size=32).spec.to_dict())


MAKE = {"classification": _classification, "detection": _detection, "segmentation": _segmentation, "video": _video}


def write_network(folder, kind):
    """Write the network of a task as a checkpoint, as a run and, if it is a classifier, as it is published."""
    checkpoint = folder / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    write_task(task := MAKE[kind](), checkpoint)
    (folder / "best.ckpt").write_bytes(checkpoint.read_bytes())
    if kind == "classification":
        publish(task, folder / "published")


def export(checkpoint, file):
    """Export a network, and write beside the file what the command said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["export", str(checkpoint), str(file)]) == 0
    file.with_suffix(".txt").write_text(said.getvalue())
