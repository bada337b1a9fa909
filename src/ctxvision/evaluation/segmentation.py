"""The evaluation of segmentation networks: intersection over union by class, frequent mistakes, examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ctxvision.data import SegmentationData
from ctxvision.data.segmentation.source import IGNORE
from ctxvision.foreign import visible
from ctxvision.inference.segmentation import SegmentationPredictor
from ctxvision.runs import Run
from ctxvision.tasks.segmentation import PixelConfusion, SegmentationTask, intersection_over_union
from ctxvision.tasks.task import over_classes, undefined
from ctxvision.wording import column, padded, plural

from .scores import EvaluationError, Scores, share, spread_over, training_summary
from .source import DataRequest, Source
from .speed import Stopwatch

_SETTINGS = (
    "steps", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "decoder", "decoder_args", "crop_size",
    "ema", "seed", "precision",
)  # fmt: skip
_CONFUSED = 12


@dataclass(frozen=True)
class SegmentationExample:
    """An image with its true and its predicted classes.

    Attributes:
        position: The place of the image among those that could be read.
        pixels: The image, (C, H, W) uint8 from 0 to 255.
        truth: The true class of every pixel, (H, W) uint8; 255 where a pixel has no class.
        classes: The most probable class of every pixel, (H, W) uint8.
    """

    position: int
    pixels: Tensor
    truth: Tensor
    classes: Tensor


@dataclass(frozen=True, repr=False)
class SegmentationScores(Scores):
    """The scores of a segmentation network, with the examples for a page about it.

    Attributes:
        examples: Images that are spread over the data, as ``numbers["examples"]`` describes them.
    """

    examples: tuple[SegmentationExample, ...] = field(kw_only=True)


def make_evaluator(
    predictor: SegmentationPredictor, request: DataRequest, *, examples: int, run: Run | None
) -> "SegmentationEvaluator":
    """Open the data for a segmentation network; see `ctxvision.evaluation.evaluate`."""
    source = request.open(predictor.data_spec, "segmentation", batch_size=1)
    return SegmentationEvaluator(predictor, source, examples=examples, run=run)


class SegmentationEvaluator:
    """Scores a segmentation network; see `ctxvision.evaluation.loop.Evaluator`.

    Args:
        predictor: The network.
        source: The images and their masks.
        examples: The number of images to keep, spread over the data.
        run: The run of the training, with its curves and settings; ``None`` if there is none.
    """

    def __init__(
        self, predictor: SegmentationPredictor, source: Source, *, examples: int = 0, run: Run | None = None
    ) -> None:
        self.predictor, self.source, self.device, self.run = predictor, source, predictor.device, run
        total = len(cast(SegmentationData, source.module).eval_samples)
        self._shown = set(spread_over(total, examples))
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._confusion = PixelConfusion(len(self.predictor.class_names))
        self._examples: list[SegmentationExample] = []
        self._described: list[dict[str, Any]] = []
        self._count = 0

    def compute(self, images: list[Tensor]) -> list[Tensor]:
        """Return the logits (N, H, W) of each of the images (C, H, W)."""
        return self.predictor.raw(images)

    @torch.no_grad()
    def process(self, images: list[Tensor], masks: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Count the classes of the pixels of a batch whose true classes are ``masks``, (H, W) each."""
        for image, mask, logits in zip(images, masks, outputs, strict=True):
            confidence, classes = (values.cpu() for values in logits.softmax(0).max(0))
            mask = mask.cpu()
            self._confusion.update(classes, mask)
            if self._count in self._shown:
                labelled = mask != IGNORE
                right = (classes == mask)[labelled].float().mean().item() if labelled.any() else None
                quality = {"pixel_accuracy": right, "confidence": confidence.mean().item()}
                self._described.append({"position": self._count} | quality)
                pixels = self.predictor.data_spec.pixels(image.cpu())
                example = SegmentationExample(self._count, pixels, mask, classes.to(torch.uint8))
                self._examples.append(example)
            self._count += 1

    def evaluate(self, watch: Stopwatch, precision: str) -> SegmentationScores:
        """Return the scores.

        Raises:
            EvaluationError: There were no images, or no pixel has a true class.
        """
        if not self._count:
            raise EvaluationError(f"{self.source.name}: not one image can be read")
        matrix = self._confusion.compute()
        iou = intersection_over_union(matrix)
        if math.isnan(iou.mean):
            raise EvaluationError(f"{self.source.name}: not one pixel has a class, all are to be ignored (255)")
        spec, module, network = self.predictor.data_spec, self.predictor.module, self.predictor.network
        names = tuple(self.predictor.class_names)
        exported = self.predictor.exported
        window: Sequence[int] | None
        if exported is None:
            assert isinstance(module, SegmentationTask)
            window = module.window
        else:
            window = exported.metadata.settings["window"]
        numbers = {
            "model": self.predictor.model_name,
            "decoder": None if module is None else module.hparams["decoder"],
            "parameters": None if network is None else sum(p.numel() for p in network.parameters()),
            "class_names": list(names),
            "crop_size": list(spec.input_size[1:]),
            "window": list(window) if window else None,
            "checkpoint": "" if self.run is None else str(self.run.checkpoint),
            "training": None if self.run is None else training_summary(self.run, "miou", _SETTINGS),
            "data": self.source.name,
            "split": self.source.split,
            "images": self._count,
            "miou": iou.mean,
            "classes_left_out": undefined(names, iou.by_class),
            "pixel_accuracy": iou.pixel_accuracy,
            "classes": [
                {"name": name, "iou": None if math.isnan(value) else value, "pixels": pixels, "color": list(color)}
                for name, value, pixels, color in zip(names, iou.by_class, iou.truth, spec.colors, strict=True)
            ],
            "confused": _confused(matrix, names),
            "examples": self._described,
            "bad_images": self.source.bad_samples(),
        }
        return SegmentationScores("segmentation", numbers, tuple(_lines(numbers)), examples=tuple(self._examples))


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


def _lines(numbers: Mapping[str, Any]) -> list[str]:
    """Write the numbers for a person, the mean last."""
    width = column(["class", *(row["name"] for row in numbers["classes"])])
    lines = [f"{'class':{width}}      pixels      IoU"]
    lines += [
        f"{padded(row['name'], width)}  {row['pixels']:10}  {share(row['iou']):>7}" for row in numbers["classes"]
    ]
    over = over_classes(len(numbers["classes"]), numbers["classes_left_out"])
    last = (
        f"mIoU {share(numbers['miou'])}{f' ({over})' if over else ''}, "
        f"pixel accuracy {share(numbers['pixel_accuracy'])} "
        f"({numbers['split']} of {numbers['data']}, {plural(numbers['images'], 'image')})"
    )
    return [*lines, visible(last)]
