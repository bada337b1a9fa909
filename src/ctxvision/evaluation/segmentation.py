"""The numbers of a report on a segmentation run, and the pictures that belong to them."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.data.segmentation.data import SegmentationData
from ctxvision.plots.overlays import colorize, overlay
from ctxvision.plots.pixels import data_uri
from ctxvision.runs import Run, RunError
from ctxvision.tasks.means import undefined
from ctxvision.tasks.segmentation import PixelConfusion, Segmentation, SegmentationTask, intersection_over_union

from .drawings import Drawings

_SETTINGS = (
    "steps", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "decoder", "decoder_args", "crop_size",
    "ema", "seed", "precision",
)  # fmt: skip
_SIDE = 480  # of a picture, in pixels
_IGNORE = 255
_CONFUSED = 12


@dataclass(frozen=True)
class SegmentationReport:
    """All that a page shows.

    Attributes:
        numbers: plain Python values, what the JSON file beside the page holds.
        pictures: data URIs of image, truth, prediction and mistakes, by position of the image in the data set.
    """

    numbers: dict[str, Any]
    pictures: Drawings[tuple[str, str, str, str]]


@torch.no_grad()
def make_segmentation_report(
    run: Run, task: SegmentationTask, data: SegmentationData, *, data_name: str, split: str, images: int = 8
) -> SegmentationReport:
    """Run a trained network over the images of a data set and put together what a reader should know.

    Args:
        run: what is left of the training.
        task: of its checkpoint, in evaluation mode and on the device to use.
        data: what to look at, by its ``val_dataloader``.
        data_name: what the user calls it.
        split: ``val``, ``train`` or ``all``.
        images: how many of those that can be read to show, spread over the data.

    Raises:
        RunError: not one image can be read, or no pixel has a class.
    """
    names, colors = tuple(task.data_spec["class_names"]), task.data_spec["colors"]
    total = len(data.eval_samples)
    shown = {index * total // images for index in range(min(images, total))}
    confusion, examples = PixelConfusion(len(names)), []
    pictures = Drawings[tuple[str, str, str, str]]()
    count = 0
    for batch in data.val_dataloader():
        for image, mask in zip(*data.on_after_batch_transfer(batch, 0), strict=True):
            found = task.segment(image.to(task.device))
            confusion.update(found.classes, mask)
            if count in shown:
                examples.append({"position": count} | _quality(found, mask))
                pictures.draw(count, _pictures, data.spec, image, mask, found.classes, colors)
            count += 1
    if not count:
        raise RunError(f"{data_name}: not one image can be read")
    matrix = confusion.compute()
    iou = intersection_over_union(matrix)
    if math.isnan(iou.mean):
        raise RunError(f"{data_name}: not one pixel has a class, all are to be ignored (255)")
    numbers = {
        "model": task.hparams["model"],
        "decoder": task.hparams["decoder"],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "class_names": list(names),
        "crop_size": list(task.data_spec["input_size"][1:]),
        "window": list(task.window) if task.window else None,
        "checkpoint": str(run.checkpoint),
        "training": _training(run),
        "data": data_name,
        "split": split,
        "images": count,
        "miou": iou.mean,
        "classes_left_out": undefined(names, iou.by_class),
        "pixel_accuracy": iou.pixel_accuracy,
        "classes": [
            {"name": name, "iou": None if math.isnan(value) else value, "pixels": pixels, "color": list(color)}
            for name, value, pixels, color in zip(names, iou.by_class, iou.truth, colors, strict=True)
        ],
        "confused": _confused(matrix, names),
        "examples": examples,
        "bad_images": [{"path": path, "reason": reason} for path, reason in data.bad_images.items()],
    }
    return SegmentationReport(numbers, pictures)


def _quality(found: Segmentation, mask: Tensor) -> dict[str, float | None]:
    labelled = mask != _IGNORE
    right = (found.classes == mask)[labelled].float().mean().item() if labelled.any() else None
    return {"pixel_accuracy": right, "confidence": found.confidence.mean().item()}


def _pictures(spec: Any, image: Tensor, mask: Tensor, classes: Tensor, colors: Any) -> tuple[str, str, str, str]:
    """Draw the image, the truth over it, the prediction over it, and where they differ."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1) for values in (spec.mean, spec.std)
    )
    pixels = (image.cpu() * std + mean).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    plain = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    differ = (classes != mask.cpu()) & (mask.cpu() != _IGNORE)
    mistakes = np.where(
        differ[..., None].numpy(), colorize(classes, colors), np.asarray(plain.convert("L"))[..., None] // 3
    )
    shown = (plain, overlay(plain, mask.cpu(), colors), overlay(plain, classes, colors), Image.fromarray(mistakes))
    return tuple(data_uri(picture, lossless=max(picture.size) <= 160) for picture in shown)  # type: ignore[return-value]


def _training(run: Run) -> dict[str, Any] | None:
    if not run.epochs:
        return None
    curve = [
        asdict(epoch) | {"val_miou": row.get("val_miou")} for epoch, row in zip(run.epochs, run.rows, strict=True)
    ]
    measured = [row for row in curve if row["val_miou"] is not None]
    best = max(measured, key=lambda row: row["val_miou"], default=None)
    seconds = [epoch.seconds for epoch in run.epochs if epoch.seconds is not None]
    return {
        "data": run.settings.get("data"),
        "epochs": run.epochs[-1].epoch,
        "seconds": sum(seconds) if seconds else None,
        "best_epoch": best["epoch"] if best else None,
        "best_miou": best["val_miou"] if best else None,
        "is_best": run.checkpoint.name == "best.ckpt",
        "settings": {name: run.settings[name] for name in _SETTINGS if run.settings.get(name)},
        "curve": curve,
    }


def _confused(matrix: Tensor, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """List the most frequent mistakes as shares of the pixels of the true class."""
    wrong = matrix.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:_CONFUSED].tolist()
    pairs = [divmod(index, len(names)) for index in order]
    return [
        {
            "truth": names[i],
            "prediction": names[j],
            "pixels": int(wrong[i, j]),
            "share": (wrong[i, j] / matrix[i].sum()).item(),
        }
        for i, j in pairs
        if wrong[i, j]
    ]
