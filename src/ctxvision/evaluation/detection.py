"""A detector's numbers on a data set, its results file, and pictures of what it found beside the truth."""

import base64
import io
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ctxvision.data.detection.data import DetectionData
from ctxvision.explain.error import ReportError
from ctxvision.inference.detection import describe
from ctxvision.plots.boxes import draw_boxes
from ctxvision.runs import RunFolder
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.detection.metric import AveragePrecision, average_precision
from ctxvision.tasks.detection.results import coco_results, detections_to_rows
from ctxvision.tasks.means import undefined

from .drawings import Drawings

_SIDE = 480  # of a picture in the page


@dataclass(frozen=True)
class DetectionEvaluation:
    """All that a page shows, and the results.

    Attributes:
        numbers: plain Python values; what is not defined is ``None``.
        pictures: of each shown image the truth and what was found, as data URIs.
        results: entries of COCO's results file, with the ids of the annotation file.
    """

    numbers: dict[str, Any]
    pictures: Drawings[tuple[str, str]]
    results: list[dict[str, Any]]


def evaluate_detector(
    task: DetectionTask,
    data: DetectionData,
    *,
    data_name: str,
    split: str = "val",
    checkpoint: str = "",
    run: str | os.PathLike[str] | None = None,
    images: int = 12,
    threshold: float = 0.5,
    without_truth: bool = False,
) -> DetectionEvaluation:
    """Run a trained detector over the images of a data set.

    Args:
        task: in evaluation mode, on the device to use.
        data: what to look at, by its ``val_dataloader``; with masks where the detector has masks.
        data_name: what the user calls it.
        split: of the data.
        checkpoint: what to call the detector's file.
        run: the run folder, whose ``metrics.csv`` holds the curves.
        images: how many to show, spread over the data.
        threshold: least score of the objects that are shown.
        without_truth: whether images without a single object will do, as of a test set whose results are sent in;
            precision is then ``None``.

    Raises:
        ReportError: not one image can be read, or there are no objects on any.
    """
    total = len(data.eval_samples)
    shown = {index * total // images for index in range(images)} if images < total else set(range(total))
    names, ids = list(task.data_spec["class_names"]), list(task.data_spec["category_ids"])
    found: dict[Any, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    results: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    pictures = Drawings[tuple[str, str]]()
    place = {image.id: index for index, image in enumerate(data.eval_samples.images)}
    seconds = 0.0
    for batch in data.val_dataloader():
        inputs, targets = data.on_after_batch_transfer(batch, 0)
        if not inputs:
            continue
        began = time.perf_counter()
        with torch.inference_mode():
            outputs = task([image.to(task.device) for image in inputs])
        seconds += time.perf_counter() - began
        for image, target, output in zip(inputs, targets, outputs, strict=True):
            rows = detections_to_rows(output, masks=task.model.has_masks)
            found[target["image_id"]] = (target["truth"], rows)
            results += coco_results(target["image_id"], rows, ids)
            if place[target["image_id"]] in shown:
                truth = [describe(row, names) for row in target["truth"]]
                certain = [describe(row, names) for row in rows if row["score"] >= threshold]
                pictures.draw(len(examples), _pictures, image, truth, certain)
                file = (
                    os.path.relpath(target["path"], data.root)
                    if os.path.exists(target["path"])
                    else target["path"]
                )
                examples.append({"file": file, "truth": len(truth), "found": len(certain)})
    if not found:
        raise ReportError(f"{data_name}: not one image could be read")
    precision = {"box": average_precision(found, len(names), "bbox")}
    if task.model.has_masks:
        precision["mask"] = average_precision(found, len(names), "segm")
    if math.isnan(precision["box"].ap) and not without_truth:
        raise ReportError(f"{data_name}: there are no objects, so average precision means nothing")
    counts = [0] * len(names)
    for truth, _ in found.values():
        for row in truth:
            counts[row["label"] - 1] += not row["iscrowd"]
    numbers = {
        "task": "detection",
        "detector": task.hparams["detector"],
        "model": task.hparams["model"],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "checkpoint": checkpoint,
        "data": data_name,
        "split": split,
        "images": len(found),
        "objects": sum(counts),
        "images_per_second": len(found) / seconds if seconds else None,
        "threshold": threshold,
        **{part: _defined(value) for part, value in precision.items()},
        "classes_left_out": undefined(names, precision["box"].by_class),
        "classes": _classes(names, counts, precision),
        "curve": RunFolder(run).read_metrics() if run else [],
        "examples": examples,
        "notes": list(data.notes),
        "bad_images": [{"path": path, "reason": reason} for path, reason in data.bad_images.items()],
    }
    return DetectionEvaluation(numbers, pictures, results)


def _defined(precision: AveragePrecision) -> dict[str, float | None]:
    values = asdict(precision)
    del values["by_class"], values["by_class50"]
    return {name: _or_none(value) for name, value in values.items()}


def _classes(
    names: Sequence[str], counts: Sequence[int], precision: Mapping[str, AveragePrecision]
) -> list[dict[str, Any]]:
    return [
        {"name": name, "objects": count}
        | {f"{part}_ap": _or_none(value.by_class[index]) for part, value in precision.items()}
        | {f"{part}_ap50": _or_none(value.by_class50[index]) for part, value in precision.items()}
        for index, (name, count) in enumerate(zip(names, counts, strict=True))
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _pictures(
    image: Tensor, truth: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    return _picture(image, truth), _picture(image, found)


def _picture(image: Tensor, objects: Sequence[Mapping[str, Any]]) -> str:
    """Draw on an image (C, H, W) in [0, 1]; small ones become PNG without any loss, larger ones JPEG."""
    pixels = (image.cpu() * 255).round().to(torch.uint8)
    array = (pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy()
    boxes, labels, names = ([o[key] for o in objects] for key in ("bbox", "label", "class"))
    scores = [o["score"] for o in objects] if all("score" in o for o in objects) else None
    masks = [o["segmentation"] for o in objects] if all("segmentation" in o for o in objects) else None
    drawn = draw_boxes(Image.fromarray(array), boxes, labels, names, scores=scores, masks=masks)
    drawn.thumbnail((_SIDE, _SIDE))
    kind = "png" if max(image.shape[1:]) <= 128 else "jpeg"
    file = io.BytesIO()
    drawn.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
