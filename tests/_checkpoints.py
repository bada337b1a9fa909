"""Checkpoints of every kind of task without training: random weights, in which nothing is silent."""

import torch

from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.checkpoint_file import save_checkpoint
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

NORMAL = {"mean": [0.5] * 3, "std": [0.25] * 3}


def enliven(module):
    """Give random values to what starts at zero or nearly so, and statistics to batch norms; evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if "_offsets" in name:
            parameter.data.normal_(std=0.02, generator=generator)
        elif not parameter.detach().any():
            parameter.data.normal_(std=0.1, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def write_classifier(path, model="test_resnet", size=32, **more):
    """Write the checkpoint of an untrained classifier, with more in the file where asked."""
    torch.manual_seed(0)
    spec = {"class_names": ["a", "b", "c"], "input_size": [3, size, size], **NORMAL}
    task = ClassificationTask(model, spec)
    contents = {"hyper_parameters": dict(task.hparams), "state_dict": task.state_dict(), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({"ctxvision": {"task": task.kind}, **contents}, path)
    return task


def segmentation_task(model="test_resnet", classes=4, size=64, spec=None, **options):
    torch.manual_seed(0)
    names = [f"class {i}" for i in range(classes)]
    spec = spec or {"class_names": names, "input_size": [3, size, size], **NORMAL}
    task = enliven(SegmentationTask(model, spec, **options))
    torch.nn.init.normal_(task.model.decoder.classifier[1].weight, std=0.5)
    return task


def classification_task(model="test_resnet", classes=3, size=32, **options):
    torch.manual_seed(0)
    spec = {"class_names": [f"class {i}" for i in range(classes)], "input_size": [3, size, size], **NORMAL}
    return enliven(ClassificationTask(model, spec, **options))


def video_task(model="test_resnet", classes=3, size=32, frames=4, spec=None, **options):
    torch.manual_seed(0)
    names = [f"class {i}" for i in range(classes)]
    spec = spec or {"class_names": names, "input_size": [3, size, size], "frames": frames, **NORMAL}
    return enliven(VideoTask(model, spec, **options))


def detection_task(detector, model="test_resnet", classes=2, channels=3, spec=None, **options):
    torch.manual_seed(0)
    names = [f"class {i}" for i in range(classes)]
    spec = spec or {"class_names": names, "category_ids": list(range(1, classes + 1)), "in_chans": channels}
    settings = {
        "width": 16, "hidden": 32, "min_size": 96, "max_size": 160, "anchor_sizes": [8, 16, 32, 64, 96],
        "test_proposals": 40, "score_threshold": 0.02, "detections": 40, "norm": "eval",
    }  # fmt: skip
    task = enliven(DetectionTask(model, spec, detector=detector, **{**settings, **options}))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in task.model.named_parameters():
        # scores that differ, of no class always the highest; boxes that move
        if any(part in name for part in ("cls_score", "cls_logits", "mask_fcn_logits")):
            parameter.data.normal_(std=0.3 if parameter.dim() > 1 else 0.05, generator=generator)
        elif parameter.dim() > 1 and "bbox_" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return task


def write_task(task, path):
    """Write a checkpoint that `load_task` opens."""
    mark = {"task": task.kind}
    torch.save({"ctxvision": mark, "hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}, path)
    return path
