"""The numbers of an evaluation, and the pictures that belong to them."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctxvision._version import __version__
from ctxvision.data import DigitsData, ImageData
from ctxvision.plots.pixels import is_small, thumbnail
from ctxvision.runs import RunError
from ctxvision.tasks import ClassificationTask

from .by_class import class_table, confused_pairs, confusion_matrix, mean_class_accuracy
from .calibration import calibration
from .drawings import Drawings
from .imagenet_real import Labels, real_accuracy
from .predictions import wilson_interval
from .scores import NotFiniteError, Scores, Speed, score_images

SCHEMA_VERSION = 1
_PAIRS = 100  # kinds of mistake in the list; the matrix has them all


@dataclass(frozen=True)
class Evaluation:
    """All that a page shows.

    Attributes:
        numbers: plain Python values, what the JSON file holds.
        pictures: data URIs by position of the image in the data set.
        pixelated: whether the images have so few pixels that they are best enlarged without smoothing.
    """

    numbers: dict[str, Any]
    pictures: Drawings[str] = field(default_factory=Drawings)
    pixelated: bool = False


def make_evaluation(
    task: ClassificationTask,
    data: DigitsData | ImageData,
    *,
    checkpoint: str,
    data_name: str,
    split: str,
    worst: int = 24,
    real: Labels | None = None,
    precision: str = "32",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Evaluation:
    """Run a trained network over the images of a data set and measure how good its answers are.

    Args:
        task: on the device to use.
        data: what to look at, by its ``val_dataloader``.
        checkpoint: what the user calls the network.
        data_name: what the user calls the data.
        split: ``val``, ``train`` or ``all``.
        worst: how many of the images with the highest losses to list.
        real: labels of ImageNet-ReaL, see `read_real`.
        precision: what the user calls it.
        autocast: context that brings it about.

    Raises:
        RunError: not one image can be read, an answer is not a number, or the labels of ImageNet-ReaL do not
            fit the images.
    """
    names = tuple(task.data_spec["class_names"])
    if real is not None:
        _require_real(data, names, real)
    try:
        found = score_images(task, _batches(task, data), worst=worst, precision=autocast)
    except NotFiniteError as error:
        files = _file_names(data)
        name = files[error.position] if files else f"image {error.position + 1}"
        advice = "its weights are broken" if precision == "32" else "try --precision 32"
        raise RunError(f"{data_name}: {name}: the output of the network is NaN or infinite; {advice}") from error
    except RunError as error:
        raise RunError(f"{data_name}: {error}") from error
    files = _file_names(data)
    numbers = {
        "schema_version": SCHEMA_VERSION,
        "ctxvision": __version__,
        "checkpoint": checkpoint,
        "model": task.hparams["model"],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "data": data_name,
        "split": split,
        **summary(found, names),
        "worst": [_image(found, p, names, files) for p in found.worst()],
        "funnel": _funnel(task, found) if found.stages else None,
        "imagenet_real": None if real is None else real_accuracy(real, files, found.predictions, names),
        "throughput": _throughput(task.device, found, data, precision),
        "bad_images": [{"path": path, "reason": reason} for path, reason in data.bad_images.items()],
    }
    mean, std = task.data_spec["mean"], task.data_spec["std"]
    pictures = Drawings[str]()
    for position, image in found.pictures.items():
        pictures.draw(position, thumbnail, image, mean, std)
    return Evaluation(numbers, pictures, all(map(is_small, found.pictures.values())))


def summary(found: Scores, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what follows from the answers alone: accuracy, loss, classes, mistakes and calibration."""
    count, right, among5 = len(found.targets), int(found.correct.sum()), found.ranks < 5
    confusion = confusion_matrix(found.targets, found.predictions, found.num_classes)
    of_class = np.bincount(found.targets, among5, found.num_classes)
    many = found.num_classes > 5
    classes = class_table(confusion, names)
    for row, hits in zip(classes, of_class.tolist(), strict=True):
        row["top5"] = hits / row["images"] if many and row["images"] else None
    return {
        "images": count,
        "right": right,
        "top1": right / count,
        "top1_interval95": list(wilson_interval(right, count)),
        "top5": int(among5.sum()) / count if many else None,
        "top5_interval95": list(wilson_interval(int(among5.sum()), count)) if many else None,
        "mean_class_top1": mean_class_accuracy(confusion),
        "classes_left_out": [row["name"] for row in classes if not row["images"]],
        "loss": found.loss,
        "cross_entropy": float(found.losses.mean()),
        "calibration": calibration(found.confidences, found.correct),
        "classes": classes,
        "confused": confused_pairs(confusion, names, _PAIRS),
        "confusion": confusion.tolist(),
    }


def _require_real(data: DigitsData | ImageData, names: tuple[str, ...], real: Labels) -> None:
    """Find out before the work whether the labels of ImageNet-ReaL can be used."""
    samples = [path for path, _ in getattr(data, "eval_samples", [])]
    if not samples:
        raise RunError("digits: ImageNet-ReaL is for the validation images of ImageNet")
    real_accuracy(real, samples, np.zeros(len(samples), np.int64), names)


def _batches(task: ClassificationTask, data: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in data.val_dataloader():
        images, targets = data.on_after_batch_transfer(batch, 0)
        if len(images):
            images = images.to(task.device, memory_format=task.memory_format)
        yield images, targets.to(task.device)


def _file_names(data: DigitsData | ImageData) -> list[str]:
    """Name the images that could be read so far, in their order; digits have no names."""
    samples = getattr(data, "eval_samples", [])
    return [_shown(path, data.root) for path, _ in samples if path not in data.bad_images]


def _shown(path: str, root: str) -> str:
    return os.path.relpath(path, root) if os.path.isabs(path) or os.path.exists(path) else path


def _image(found: Scores, position: int, names: tuple[str, ...], files: list[str]) -> dict[str, Any]:
    return {
        "position": position,
        "file": files[position] if files else None,
        "truth": names[found.targets[position]],
        "prediction": names[found.predictions[position]],
        "right": bool(found.correct[position]),
        "probability": float(found.confidences[position]),
        "true_probability": float(np.exp(-found.losses[position])),
        "loss": float(found.losses[position]),
    }


def _funnel(task: ClassificationTask, found: Scores) -> dict[str, Any]:
    count = len(found.targets)
    return {
        "selection": task.model.context.selection,
        "temperature": float(task.model.context.temperature.detach()),
        "stages": [asdict(stage) | {"recall": stage.considered / count} for stage in found.stages],
    }


def _throughput(device: torch.device, found: Scores, data: Any, precision: str) -> dict[str, Any]:
    on_cpu = device.type == "cpu"
    return {
        "device": "cpu"
        if on_cpu
        else torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else device.type,
        "threads": torch.get_num_threads() if on_cpu else None,
        "precision": precision,
        "batch_size": data.batch_size,
        "workers": getattr(data, "workers", 0),
        "with_decoding": _speed(found.with_decoding),
        "network": _speed(found.network),
    }


def _speed(speed: Speed | None) -> dict[str, Any] | None:
    return asdict(speed) | {"images_per_second": speed.images_per_second} if speed else None
