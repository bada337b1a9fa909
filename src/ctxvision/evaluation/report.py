"""The numbers of a report on a training run, and the pictures that belong to them."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctxvision.data import DigitsData, ImageData
from ctxvision.explain.funnel import Funnel, class_funnel
from ctxvision.plots.pixels import is_small, thumbnail
from ctxvision.runs import Run, RunError
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual

from .drawings import Drawings
from .predictions import Predictions, collect_predictions, wilson_interval

_SETTINGS = (
    "batch_size", "lr", "optimizer", "weight_decay", "warmup_epochs", "label_smoothing", "drop_path_rate",
    "mixup", "cutmix", "ema", "auto_augment", "color_jitter", "random_erasing", "seed", "precision",
)  # fmt: skip
_MISTAKES, _FUNNELS = 12, 6


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        numbers: plain Python values, what ``report.json`` holds.
        pictures: data URIs by position of the image in the data set.
        pixelated: whether the images have so few pixels that they are best enlarged without smoothing.
    """

    numbers: dict[str, Any]
    pictures: Drawings[str]
    pixelated: bool


def make_report(
    run: Run,
    task: ClassificationTask,
    data: DigitsData | ImageData,
    *,
    data_name: str,
    split: str,
    images: int = 24,
) -> Report:
    """Run a trained network over the images of a data set and put together what a reader should know.

    Args:
        run: what is left of the training.
        task: of its checkpoint, on the device to use.
        data: what to look at, by its ``val_dataloader``.
        data_name: what the user calls it.
        split: ``val``, ``train`` or ``all``.
        images: how many predictions to show, spread over the data.

    Raises:
        RunError: not one image can be read.
    """
    loader = data.val_dataloader()
    total = len(loader.dataset)
    shown = [index * total // images for index in range(min(images, total))] if images < total else [*range(total)]
    try:
        found = collect_predictions(task.model, _batches(task, data, loader), keep=set(shown), mistakes=_MISTAKES)
    except ValueError as error:
        raise RunError(f"{data_name}: {error}") from error
    names = tuple(task.data_spec["class_names"])
    describe = _Describer(found, names, _file_names(data))
    right, count = int(found.correct.sum()), len(found.targets)
    top5 = (found.classes == found.targets[:, None]).any(1).float().mean().item() if len(names) > 5 else None
    confusion = found.confusion()
    numbers = {
        "model": task.hparams["model"],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "contextual": is_contextual(task.model),
        "image_size": list(task.data_spec["input_size"]),
        "class_names": list(names),
        "checkpoint": str(run.checkpoint),
        "training": _training(run),
        "data": data_name,
        "split": split,
        "images": count,
        "right": right,
        "top1": right / count,
        "top1_interval95": list(wilson_interval(right, count)),
        "top5": top5,
        "classes": [_class(name, confusion[i], i) for i, name in enumerate(names)],
        "confused": _confused(confusion, names),
        "predictions": [describe(position) for position in shown if position < count],
        "mistakes": [describe(position) for position in found.worst()],
        "funnel": _funnel(task, found, names) if is_contextual(task.model) else None,
        "bad_images": [{"path": path, "reason": reason} for path, reason in data.bad_images.items()],
    }
    mean, std = task.data_spec["mean"], task.data_spec["std"]
    pictures = Drawings[str]()
    for position, image in found.pictures.items():
        pictures.draw(position, thumbnail, image, mean, std)
    return Report(numbers, pictures, all(map(is_small, found.pictures.values())))


def _batches(task: ClassificationTask, data: Any, loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        images, targets = data.on_after_batch_transfer(batch, 0)
        if len(images):
            yield images.to(task.device, memory_format=task.memory_format), targets.to(task.device)


def _file_names(data: DigitsData | ImageData) -> list[str]:
    """Name the images that could be read, in their order; digits have no names."""
    samples = getattr(data, "eval_samples", [])
    return [os.path.relpath(path, data.root) for path, _ in samples if path not in data.bad_images]


@dataclass(frozen=True)
class _Describer:
    found: Predictions
    names: tuple[str, ...]
    files: list[str]

    def __call__(self, position: int) -> dict[str, Any]:
        classes, chances = self.found.classes[position].tolist(), self.found.probabilities[position].tolist()
        top = [{"class": self.names[c], "probability": p} for c, p in zip(classes, chances, strict=True)]
        return {
            "position": position,
            "file": self.files[position] if self.files else None,
            "truth": self.names[self.found.targets[position]],
            "prediction": top[0]["class"],
            "probability": top[0]["probability"],
            "true_probability": self.found.true_probabilities[position].item(),
            "right": bool(self.found.correct[position]),
            "top": top,
        }


def _training(run: Run) -> dict[str, Any] | None:
    if not run.epochs:
        return None
    measured = [epoch for epoch in run.epochs if epoch.val_top1 is not None]
    best = max(measured, key=lambda epoch: epoch.val_top1 or 0.0, default=None)
    seconds = [epoch.seconds for epoch in run.epochs if epoch.seconds is not None]
    return {
        "data": run.settings.get("data"),
        "epochs": run.epochs[-1].epoch,
        "planned_epochs": run.settings.get("epochs"),
        "seconds": sum(seconds) if seconds else None,
        "best_epoch": best.epoch if best else None,
        "best_top1": best.val_top1 if best else None,
        "is_best": Path(run.checkpoint).name == "best.ckpt",
        "settings": {name: run.settings[name] for name in _SETTINGS if run.settings.get(name)},
        "curve": [asdict(epoch) for epoch in run.epochs],
    }


def _class(name: str, row: Tensor, index: int) -> dict[str, Any]:
    total, right = int(row.sum()), int(row[index])
    return {"name": name, "images": total, "right": right, "top1": right / total if total else None}


def _confused(confusion: Tensor, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """List the mistakes by kind, the most frequent first."""
    wrong = confusion.clone().fill_diagonal_(0)
    pairs = sorted(wrong.nonzero().tolist(), key=lambda pair: (-int(wrong[pair[0], pair[1]]), pair))
    return [{"truth": names[i], "prediction": names[j], "images": int(wrong[i, j])} for i, j in pairs]


def _funnel(task: ClassificationTask, found: Predictions, names: tuple[str, ...]) -> dict[str, Any]:
    positions = _instructive(found)
    funnels: list[Funnel] = []
    if positions:
        images = torch.stack([found.pictures[p] for p in positions])
        images = images.to(task.device, memory_format=task.memory_format)
        funnels = class_funnel(task.model, images, found.targets[positions].tolist())
    count = len(found.targets)
    return {
        "selection": task.model.context.selection,
        "stages": [asdict(stage) | {"recall": stage.considered / count} for stage in found.stages],
        "images": [_named(p, funnel, names) for p, funnel in zip(positions, funnels, strict=True)],
    }


def _instructive(found: Predictions) -> list[int]:
    """Choose the worst mistakes, then right answers, each of another class as far as possible."""
    mistakes = [p for p in found.worst(_FUNNELS // 2) if p in found.pictures]
    by_class: dict[int, list[int]] = {}
    for position in sorted(found.pictures):
        if found.correct[position]:
            by_class.setdefault(int(found.targets[position]), []).append(position)
    turns = sorted((turn, p) for queue in by_class.values() for turn, p in enumerate(queue))
    return mistakes + [p for _, p in turns][: _FUNNELS - len(mistakes)]


def _named(position: int, funnel: Funnel, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "position": position,
        "truth": names[funnel.target],
        "prediction": names[funnel.prediction],
        "right": funnel.target == funnel.prediction,
        "stages": [
            {
                "name": stage.name,
                "true_rank": stage.true_rank,
                "classes": [
                    {"class": names[c], "score": score, "kept": kept, "true": c == funnel.target}
                    for c, score, kept in zip(stage.classes, stage.scores, stage.kept, strict=True)
                ],
            }
            for stage in funnel.stages
        ],
    }
