"""The evaluation of classifiers: accuracy, calibration, confusion, images with high losses, class funnel."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxvision._version import __version__
from ctxvision.data import DataModule
from ctxvision.foreign import visible
from ctxvision.inference.classification import ClassificationPredictor
from ctxvision.nn import ContextualOutput
from ctxvision.runs import Run
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import FunnelStep, funnel_steps, is_contextual
from ctxvision.tasks.classifier import logits_of
from ctxvision.wording import column, padded

from .answers import Answers, answer_columns, summary
from .imagenet import Labels, folders_by_class, read_real, real_accuracy
from .scores import EvaluationError, Scores, share, spread_over
from .source import DataRequest, Source
from .speed import Speed, Stopwatch

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_MISTAKES = 12  # most confident ones of which the images are kept


@dataclass(frozen=True)
class StageRecall:
    """The number of images whose true classes were considered and kept at one step of the class funnel.

    Attributes:
        name: The name of the step, ``"stage 2"``, …, ``"head"``.
        scored: The number of classes that are scored for an image.
        kept: The number of classes that are kept for an image.
        considered: The number of images whose true class was among the scored classes.
        first: The number of images whose true class had the highest score.
        survived: The number of images whose true class was kept; at the head, the number of images with a right
            answer.
    """

    name: str
    scored: int
    kept: int
    considered: int = 0
    first: int = 0
    survived: int = 0

    def with_batch(self, step: FunnelStep, targets: Tensor) -> "StageRecall":
        """Return the counts with those of a batch added, whose true classes are ``targets`` (B,)."""
        first = step.classes.gather(1, step.scores.argmax(1, keepdim=True))[:, 0] == targets
        return replace(
            self,
            considered=self.considered + int(step.considers(targets).sum()),
            first=self.first + int(first.sum()),
            survived=self.survived + int(step.keeps(targets).sum()),
        )


@dataclass(frozen=True, repr=False)
class ClassificationScores(Scores):
    """The scores of a classifier, with the images for a page about it.

    Attributes:
        answers: The answers to all images.
        class_names: The names of the classes.
        files: The names of the images, in their order; empty if they have none.
        pictures: Normalised images (C, H, W) by position: those with the highest losses, the most confident
            mistakes, and those that are spread over the data.
        spread: The positions of the images that are spread over the data.
        mean: The value that was subtracted from each channel of the images.
        std: The value by which each channel of the images was then divided.
    """

    answers: Answers = field(kw_only=True)
    class_names: tuple[str, ...] = field(kw_only=True)
    files: list[str] = field(kw_only=True)
    pictures: Mapping[int, Tensor] = field(kw_only=True)
    spread: tuple[int, ...] = field(kw_only=True)
    mean: tuple[float, ...] = field(kw_only=True)
    std: tuple[float, ...] = field(kw_only=True)

    def describe(self, position: int) -> dict[str, Any]:
        """Return the answer to an image, and its true class, as plain values."""
        answers = self.answers
        return {
            "position": position,
            "file": self.files[position] if self.files else None,
            "truth": self.class_names[answers.targets[position]],
            "prediction": self.class_names[answers.predictions[position]],
            "right": bool(answers.correct[position]),
            "probability": float(answers.confidences[position]),
            "true_probability": float(np.exp(-answers.losses[position])),
            "loss": float(answers.losses[position]),
        }

    def top(self, position: int) -> list[dict[str, Any]]:
        """Return the most probable classes of an image with their probabilities."""
        classes, chances = self.answers.top_classes[position], self.answers.top_probabilities[position]
        return [
            {"class": self.class_names[c], "probability": float(p)} for c, p in zip(classes, chances, strict=True)
        ]


def make_evaluator(
    predictor: ClassificationPredictor,
    request: DataRequest,
    *,
    examples: int,
    run: Run | None,
    spread: int = 0,
    real: str | os.PathLike[str] | None = None,
    labels_by_index: bool = False,
) -> "ClassificationEvaluator":
    """Open the data for a classifier; see `ctxvision.evaluation.evaluate`."""
    labels = read_real(real) if real else None
    spec = predictor.data_spec
    folders = None
    if not isinstance(request.data, DataModule):
        folders = folders_by_class(os.fspath(request.data), spec.class_names, forced=labels_by_index)
    if folders:
        first = f"{folders[0]} is {spec.class_names[0]!r}"
        _log.warning("%s: folders are numbers of classes; %s", request.data, first)
    source = request.open(
        replace(spec, class_names=folders) if folders else spec, "classification", batch_size=128
    )
    return ClassificationEvaluator(predictor, source, examples=examples, run=run, spread=spread, real=labels)


class ClassificationEvaluator:
    """Scores a classifier; see `ctxvision.evaluation.loop.Evaluator`.

    Args:
        predictor: The network.
        source: The images and their classes.
        examples: The number of images with the highest losses to keep.
        run: The run of the training, with its curves and settings; ``None`` if there is none.
        spread: The number of further images to keep, spread over the data.
        real: The labels of ImageNet-ReaL, see `read_real`; ``None`` leaves out this comparison.

    Raises:
        EvaluationError: The labels of ImageNet-ReaL do not fit the images or the network.
    """

    def __init__(
        self,
        predictor: ClassificationPredictor,
        source: Source,
        *,
        examples: int = 0,
        run: Run | None = None,
        spread: int = 0,
        real: Labels | None = None,
    ) -> None:
        self.predictor, self.source, self.device = predictor, source, predictor.device
        self.examples, self.run, self.real = examples, run, real
        if real is not None:
            _require_real(source, predictor.class_names, real)
        total = len(source.module.eval_dataset()) if spread else 0
        self.spread = tuple(spread_over(total, spread))
        self._task = predictor.module if isinstance(predictor.module, ClassificationTask) else None
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self._stages: list[StageRecall] = []
        self._loss, self._count, self._num_classes = 0.0, 0, 0
        self._spread: dict[int, Tensor] = {}
        self._worst, self._mistakes = _Foremost(self.examples), _Foremost(_MISTAKES)

    @torch.no_grad()
    def compute(self, images: Tensor) -> Tensor | ContextualOutput:
        """Return the logits (B, N) of images (B, C, H, W), or a contextual network's output for its loss."""
        return (
            self.predictor.raw(images)
            if self._task is None
            else self.predictor.computing(len(images)).outputs(images)
        )

    @torch.no_grad()
    def process(self, images: Tensor, targets: Tensor, output: Tensor | ContextualOutput) -> None:
        """Count the answers to a batch of images (B, C, H, W) with true classes ``targets`` (B,).

        Raises:
            EvaluationError: An answer is NaN or infinite.
        """
        targets = targets.to(self.device)
        logits = logits_of(output).float()
        said = logits if isinstance(output, Tensor) else output
        loss_of: Callable[..., Tensor] = nn.functional.cross_entropy if self._task is None else self._task.val_loss
        self._require_finite(logits.cpu())
        self._loss += float(loss_of(said, targets)) * len(images)
        if self._task is not None and not isinstance(output, Tensor) and is_contextual(self._task.model):
            steps = funnel_steps(self._task.model, output)
            known = self._stages or [StageRecall(s.name, s.classes.shape[1], s.kept.shape[1]) for s in steps]
            self._stages = [stage.with_batch(s, targets) for stage, s in zip(known, steps, strict=True)]
        answers = answer_columns(logits.cpu().double(), targets.cpu())
        self._parts.append(answers)
        self._num_classes = logits.shape[1]
        _, predictions, _, confidences, losses, *_ = answers
        positions = range(self._count, self._count + len(images))
        self._spread |= {p: images[p - self._count].float().cpu() for p in self.spread if p in positions}
        self._worst.add(losses, positions, images)
        wrong = predictions != targets.cpu().numpy()
        self._mistakes.add(np.where(wrong, confidences, -np.inf), positions, images)
        self._count += len(images)

    def evaluate(self, watch: Stopwatch, precision: str) -> ClassificationScores:
        """Return the scores.

        Raises:
            EvaluationError: There were no images.
        """
        if not self._parts:
            raise EvaluationError(f"{self.source.name}: there are no images to evaluate")
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        answers, names = Answers(self._num_classes, *columns), tuple(self.predictor.class_names)
        files = self.source.file_names()
        network, funnel = self.predictor.network, self._funnel()
        numbers: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "ctxvision": __version__,
            "checkpoint": "" if self.run is None else str(self.run.checkpoint),
            "model": self.predictor.model_name,
            "parameters": None if network is None else sum(p.numel() for p in network.parameters()),
            "data": self.source.name,
            "split": self.source.split,
            **summary(answers, self._loss / self._count, names),
            "worst": [],
            "funnel": funnel,
            "imagenet_real": (
                None if self.real is None else real_accuracy(self.real, files, answers.predictions, names)
            ),
            "throughput": self._throughput(watch, precision),
            "bad_images": self.source.bad_samples(),
        }
        worst = self._worst.images()
        scores = ClassificationScores(
            "classification",
            numbers,
            tuple(_lines(numbers)),
            answers=answers,
            class_names=names,
            files=files,
            pictures=worst | self._mistakes.images() | self._spread,
            spread=tuple(p for p in self.spread if p < self._count),
            mean=self.predictor.data_spec.mean,
            std=self.predictor.data_spec.std,
        )
        numbers["worst"] = [scores.describe(position) for position in worst]
        return scores

    def _require_finite(self, logits: Tensor) -> None:
        broken = (~logits.isfinite().all(1)).nonzero()[:, 0]
        if len(broken):
            position, files = self._count + int(broken[0]), self.source.file_names()
            name = files[position] if files else f"image {position + 1}"
            reduced = torch.is_autocast_enabled(self.device.type)
            advice = "try --precision 32" if reduced else "its weights are broken"
            raise EvaluationError(
                f"{self.source.name}: {name}: the output of the network is NaN or infinite; {advice}"
            )

    def _funnel(self) -> dict[str, Any] | None:
        model = None if self._task is None else self._task.model
        if model is None or not self._stages or not is_contextual(model) or model.context is None:
            return None
        stages = [asdict(stage) | {"recall": stage.considered / self._count} for stage in self._stages]
        return {
            "selection": model.context.selection,
            "temperature": float(model.context.temperature.detach()),
            "stages": stages,
        }

    def _throughput(self, watch: Stopwatch, precision: str) -> dict[str, Any]:
        kind = self.device.type
        return {
            "device": torch.cuda.get_device_name(self.device) if kind == "cuda" else kind,
            "threads": torch.get_num_threads() if kind == "cpu" else None,
            "precision": precision,
            "batch_size": self.source.module.batch_size,
            "workers": self.source.module.workers,
            "with_decoding": _speed(watch.with_decoding),
            "network": _speed(watch.network),
        }


class _Foremost:
    """Keeps the images with the highest values while batches are processed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[float, int, Tensor]] = []

    def add(self, values: NDArray[np.float64], positions: Sequence[int], images: Tensor) -> None:
        """Take in the values (B,) of a batch of images (B, C, H, W); images with the value −∞ are not kept."""
        best = [i for i in np.argsort(-values, kind="stable")[: self._count].tolist() if values[i] > -np.inf]
        least = self._kept[-1][0] if len(self._kept) == self._count and self._kept else np.inf
        self._kept += [
            (-float(values[i]), positions[i], images[i].float().cpu()) for i in best if -values[i] < least
        ]
        self._kept = sorted(self._kept, key=lambda entry: entry[:2])[: self._count]

    def images(self) -> dict[int, Tensor]:
        """Return the images (C, H, W) by position, the image with the highest value first."""
        return {position: image for _, position, image in self._kept}


def _require_real(source: Source, names: Sequence[str], real: Labels) -> None:
    """Check before the evaluation whether the labels of ImageNet-ReaL can be used."""
    samples = [path for path, _ in getattr(source.module, "eval_samples", [])]
    if not samples:
        raise EvaluationError("digits: ImageNet-ReaL is for the validation images of ImageNet")
    real_accuracy(real, samples, np.zeros(len(samples), np.int64), names)


def _speed(speed: Speed | None) -> dict[str, Any] | None:
    return speed.to_dict() if speed else None


def _lines(numbers: Mapping[str, Any]) -> list[str]:
    """Write the numbers for a person, the accuracy last."""
    width = column(["class", *(row["name"] for row in numbers["classes"])])
    lines = [f"{'class':{width}}  images   top-1  precision  most often taken for"]
    for row in numbers["classes"]:
        rival = f"{visible(row['confused_with'])} ({row['confused_images']})" if row["confused_images"] else "–"
        top1, precision = (share(row[name]) for name in ("top1", "precision"))
        lines.append(f"{padded(row['name'], width)}  {row['images']:6}  {top1:>7}  {precision:>9}  {rival}")
    for stage in (numbers["funnel"] or {"stages": ()})["stages"]:
        kept = share(stage["survived"] / numbers["images"])
        what = f"true class considered {share(stage['recall'])}, kept {kept}"
        lines.append(f"{stage['name']}: {stage['scored']} classes, {what}")
    speed = numbers["throughput"]
    rates = [
        f"{speed[name]['images_per_second']:.4g} images/s {words}"
        for name, words in (("with_decoding", "with decoding"), ("network", "of the network alone"))
        if speed[name]
    ]
    lines.append(f"{', '.join(rates)} (this run, {speed['device']}, precision {speed['precision']})")
    low, high = map(share, numbers["top1_interval95"])
    temperature = f", temperature {numbers['funnel']['temperature']:.4g}" if numbers["funnel"] else ""
    lines.append(
        f"loss {numbers['loss']:.4f}, calibration error (ECE) {share(numbers['calibration']['ece'])}, "
        f"95% interval of top-1 {low} to {high}{temperature}"
    )
    if numbers["imagenet_real"]:
        real = numbers["imagenet_real"]
        counts = f"of {real['images']} images, {real['skipped']} have no label"
        lines.append(f"ImageNet-ReaL {share(real['top1'])} {counts}")
    top5 = "" if numbers["top5"] is None else f", top-5 {numbers['top5']:.2%}"
    of = f"of {numbers['images']} images ({numbers['split']} of {visible(numbers['data'])})"
    return [*lines, f"top-1 {numbers['top1']:.2%}{top5} {of}"]
