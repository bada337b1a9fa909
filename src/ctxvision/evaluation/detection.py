"""The evaluation of detectors: average precision of boxes and masks by class and size, COCO results, examples."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ctxvision.data import DetectionData
from ctxvision.foreign import visible
from ctxvision.inference.detection import DetectionPredictor, describe
from ctxvision.runs import Run, RunFolder
from ctxvision.tasks.detection.metric import AveragePrecision, average_precision, coco_results, detections_to_rows
from ctxvision.tasks.task import over_classes, undefined
from ctxvision.wording import column, padded, plural

from .scores import EvaluationError, Scores, share, spread_over
from .source import DataRequest, Source
from .speed import Stopwatch

_log = logging.getLogger(__name__)
Row = dict[str, Any]


@dataclass(frozen=True)
class DetectionExample:
    """An image with its true and its found objects.

    Attributes:
        pixels: The image, (C, H, W) uint8 from 0 to 255.
        truth: The true objects: ``class``, ``label``, ``bbox`` as (x, y, width, height) in pixels and, for data
            with masks, ``segmentation``, COCO's compressed run-length code.
        found: The objects that the detector found with at least the threshold as score, in the same form, with
            their ``score`` from 0 to 1.
    """

    pixels: Tensor
    truth: Sequence[Row]
    found: Sequence[Row]


@dataclass(frozen=True, repr=False)
class DetectionScores(Scores):
    """The scores of a detector, with the examples for a page about it.

    Attributes:
        examples: Images that are spread over the data, as ``numbers["examples"]`` names them.
    """

    examples: tuple[DetectionExample, ...] = field(kw_only=True)


def make_evaluator(
    predictor: DetectionPredictor,
    request: DataRequest,
    *,
    examples: int,
    run: Run | None,
    threshold: float = 0.5,
    without_truth: bool = False,
) -> "DetectionEvaluator":
    """Open the data for a detector; see `ctxvision.evaluation.evaluate`."""
    source = request.open(predictor.data_spec, "detection", batch_size=8, masks=predictor.has_masks, train=False)
    return DetectionEvaluator(
        predictor, source, examples=examples, run=run, threshold=threshold, without_truth=without_truth
    )


class DetectionEvaluator:
    """Scores a detector; see `ctxvision.evaluation.loop.Evaluator`.

    Args:
        predictor: The detector.
        source: The images and their objects, with masks if the detector finds masks.
        examples: The number of images to keep, spread over the data.
        run: The run of the training, with its curves and settings; ``None`` if there is none.
        threshold: The lowest score, from 0 to 1, of the found objects in an example.
        without_truth: Whether data without a single object are accepted, such as a test set whose results are
            submitted elsewhere; the precision is then ``None``.
    """

    def __init__(
        self,
        predictor: DetectionPredictor,
        source: Source,
        *,
        examples: int = 0,
        run: Run | None = None,
        threshold: float = 0.5,
        without_truth: bool = False,
    ) -> None:
        self.predictor, self.source, self.device = predictor, source, predictor.device
        self.run, self.threshold, self.without_truth = run, threshold, without_truth
        listed = cast(DetectionData, source.module).eval_samples
        self._place = {image.id: index for index, image in enumerate(listed.images)}
        self._shown = set(spread_over(len(listed), examples))
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._objects: dict[Any, tuple[list[Row], list[Row]]] = {}
        self._results: list[Row] = []
        self._named: list[Row] = []
        self._examples: list[DetectionExample] = []

    def compute(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Return the objects that the detector finds in each of the images (C, H, W)."""
        return self.predictor.raw(images)

    def process(
        self, images: list[Tensor], targets: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Collect the true and the found objects of a batch of images (C, H, W)."""
        names, ids = self.predictor.class_names, self.predictor.data_spec.category_ids
        for image, target, output in zip(images, targets, outputs, strict=True):
            rows = detections_to_rows(output, masks=self.predictor.has_masks)
            self._objects[target["image_id"]] = (target["truth"], rows)
            self._results += coco_results(target["image_id"], rows, ids)
            if self._place[target["image_id"]] not in self._shown:
                continue
            truth = [describe(row, names) for row in target["truth"]]
            found = [describe(row, names) for row in rows if row["score"] >= self.threshold]
            pixels = (image.cpu() * 255).round().to(torch.uint8)
            self._examples.append(DetectionExample(pixels, truth, found))
            name = self.source.shown(target["path"])
            self._named.append({"file": name, "truth": len(truth), "found": len(found)})

    def evaluate(self, watch: Stopwatch, precision: str) -> DetectionScores:
        """Return the scores.

        Raises:
            EvaluationError: There were no images, or no image has an object.
        """
        if not self._objects:
            raise EvaluationError(f"{self.source.name}: not one image could be read")
        names = list(self.predictor.class_names)
        parts = {"box": average_precision(self._objects, len(names), "bbox")}
        if self.predictor.has_masks:
            parts["mask"] = average_precision(self._objects, len(names), "segm")
        if math.isnan(parts["box"].ap) and not self.without_truth:
            raise EvaluationError(f"{self.source.name}: there are no objects, so average precision means nothing")
        counts = [0] * len(names)
        for truth, _ in self._objects.values():
            for row in truth:
                counts[row["label"] - 1] += not row["iscrowd"]
        if not sum(counts):
            nothing = "there are no objects, so average precision means nothing; the results are complete"
            _log.warning("%s: %s", self.source.name, nothing)
        network, module = self.predictor.network, self.predictor.module
        folder = self.run.checkpoint.parent.parent if self.run and self.run.epochs else None
        numbers = {
            "task": "detection",
            "detector": None if module is None else module.hparams["detector"],
            "model": self.predictor.model_name,
            "parameters": None if network is None else sum(p.numel() for p in network.parameters()),
            "checkpoint": "" if self.run is None else str(self.run.checkpoint),
            "data": self.source.name,
            "split": self.source.split,
            "images": len(self._objects),
            "objects": sum(counts),
            "images_per_second": (
                len(self._objects) / watch.answering_seconds if watch.answering_seconds else None
            ),
            "threshold": self.threshold,
            "highest_score": max(
                (row["score"] for _, rows in self._objects.values() for row in rows), default=None
            ),
            **{part: _defined(value) for part, value in parts.items()},
            "classes_left_out": undefined(names, parts["box"].by_class),
            "classes": _classes(names, counts, parts),
            "curve": [] if folder is None else RunFolder(folder).read_metrics(),
            "examples": self._named,
            "notes": list(self.source.module.notes),
            "bad_images": self.source.bad_samples(),
        }
        lines = tuple(_lines(numbers))
        return DetectionScores("detection", numbers, lines, self._results, examples=tuple(self._examples))


def _defined(precision: AveragePrecision) -> dict[str, float | None]:
    values = asdict(precision)
    del values["by_class"], values["by_class50"]
    return {name: _or_none(value) for name, value in values.items()}


def _classes(names: Sequence[str], counts: Sequence[int], parts: Mapping[str, AveragePrecision]) -> list[Row]:
    return [
        {"name": name, "objects": count}
        | {f"{part}_ap": _or_none(value.by_class[index]) for part, value in parts.items()}
        | {f"{part}_ap50": _or_none(value.by_class50[index]) for part, value in parts.items()}
        for index, (name, count) in enumerate(zip(names, counts, strict=True))
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _lines(numbers: Mapping[str, Any]) -> list[str]:
    """Write the numbers for a person, the averages last."""
    classes, parts = numbers["classes"], [part for part in ("box", "mask") if part in numbers]
    width = column(["class", *(row["name"] for row in classes)])
    lines = [f"{'class':{width}}  objects" + "".join(f"  {part + ' AP':>7}" for part in parts)]
    for row in classes:
        values = "".join(f"  {share(row.get(f'{part}_ap')):>7}" for part in parts)
        lines.append(f"{padded(row['name'], width)}  {row['objects']:7}{values}")
    over = over_classes(len(classes), numbers["classes_left_out"])
    over = f" ({over})" if over else ""
    for part in parts:
        value = numbers[part]
        sizes = ", ".join(f"{name} {share(value[f'ap_{name}'])}" for name in ("small", "medium", "large"))
        lines.append(
            visible(
                f"{part} AP {share(value['ap'])}{over}, AP50 {share(value['ap50'])}, AP75 {share(value['ap75'])}; "
                f"{sizes} ({numbers['split']} of {numbers['data']}, {plural(numbers['images'], 'image')})"
            )
        )
    return lines
