"""Classifiers that timm knows by name, with their pretrained weights: their classes, images and task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
from timm.data import resolve_data_config
from torch import nn

from ctxvision.checkpoints.finite import require_finite
from ctxvision.checkpoints.sources import pretrained_network
from ctxvision.data import DataSpec
from ctxvision.data.images.imagenet import labels

from .task import ClassificationTask


def is_pretrained_name(source: str) -> bool:
    """Tell whether a text is the registered name of a network, with or without a tag, and of no file or folder."""
    return not Path(source).exists() and Path(source).name == source and bool(timm.is_model(source))


def pretrained_task(name: str) -> ClassificationTask:
    """Return a task, in evaluation mode and on the CPU, whose network has the pretrained weights of its name.

    Args:
        name: A registered name, such as ``"rednet50"`` or ``"rednet50.in1k"``.

    Raises:
        CheckpointError: There are no such weights, or they cannot be had.
    """
    network = pretrained_network(name)
    require_finite(network.state_dict(), name)
    about = cast(Mapping[str, Any], network.pretrained_cfg)
    task = ClassificationTask(about["architecture"], spec_of(network).to_dict())
    task.model.load_state_dict(network.state_dict())
    task.eval()
    return task


def spec_of(network: nn.Module) -> DataSpec:
    """Return the classes of a network of timm's, and how its images are prepared, from its ``pretrained_cfg``.

    Classes without names get those of the ImageNet classes, where there are as many, or else their numbers.
    """
    about = cast(Mapping[str, Any], network.pretrained_cfg)
    images = resolve_data_config(pretrained_cfg=about)
    count = int(about["num_classes"])
    names = about.get("label_names") or _class_names(count)
    return DataSpec(
        class_names=tuple(map(str, names)),
        **{name: images[name] for name in ("input_size", "mean", "std", "interpolation", "crop_pct")},
    )


def _class_names(count: int) -> list[str]:
    return list(labels().values()) if count == 1000 else [str(index) for index in range(count)]
