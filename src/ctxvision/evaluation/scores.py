"""How a network answers every image of a data set, how sure it is, and how fast."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctxvision.explain.error import ReportError
from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import funnel_steps, is_contextual

from .predictions import StageRecall, count_step

_REPEATS = 3  # of the only batch, where there is no second one to time


class NotFiniteError(ReportError):
    """A network's answer is not a number.

    Attributes:
        position: of the image in the data set, among those that could be read.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"image {position + 1}: the network answers NaN or infinity")
        self.position = position


@dataclass(frozen=True)
class Speed:
    """What was timed; the first batch, in which everything is still set up, is left out.

    Attributes:
        images: how many.
        seconds: in how long.
    """

    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """The rate."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Scores:
    """Answers to N images, in their order.

    Attributes:
        num_classes: outputs of the network.
        targets: true classes, (N,) int64.
        predictions: most probable classes; of several the first, (N,) int64.
        ranks: place of the true class, from 0; equal classes in their order, (N,) int64.
        confidences: probabilities of the predictions, (N,) float64.
        losses: negative logarithms of the probabilities of the true classes, (N,) float64.
        loss: mean of the loss that the network is trained with, without label smoothing.
        stages: the class funnel over all images; empty if the network has none.
        pictures: inputs of the network, (C, H, W), by position, of the images with the highest losses.
        with_decoding: reading, decoding, moving to the device and answering; ``None`` for a single batch.
        network: answering alone, of images that are on the device.
    """

    num_classes: int
    targets: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    loss: float
    stages: tuple[StageRecall, ...] = ()
    pictures: dict[int, Tensor] = field(default_factory=dict)
    with_decoding: Speed | None = None
    network: Speed | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is right, (N,) bool."""
        return self.predictions == self.targets

    def worst(self) -> list[int]:
        """Return the positions of the pictures, the highest loss first."""
        return sorted(self.pictures, key=lambda position: (-self.losses[position], position))


def score_images(
    task: ClassificationTask,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    worst: int = 0,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    clock: Callable[[], float] = time.perf_counter,
) -> Scores:
    """Run a network over a data set once.

    Args:
        task: a trained one, on the device to use.
        batches: images (B, C, H, W) and their classes (B,), on that device; images may be none.
        worst: of how many images, those with the highest losses, to remember the pixels.
        precision: context in which the network runs, such as one of ``torch.autocast``.
        clock: seconds.

    Raises:
        ReportError: there are no images.
        NotFiniteError: an output is NaN or infinite.
    """
    model, contextual = task.model, is_contextual(task.model)
    forward = model.forward_stages if task.has_stage_outputs else model
    parts: list[tuple[np.ndarray, ...]] = []
    stages: list[StageRecall] = []
    pictures: dict[int, tuple[float, Tensor]] = {}
    total_loss = 0.0
    start = num_classes = 0
    timer = _Timer(clock, task.device)
    with evaluation_mode(model):
        for images, targets in timer.loading(batches):
            with precision():
                output = timer.answering(forward, images)
                logits = (output.logits if task.has_stage_outputs else output).float()
                loss = task.val_loss(output if task.has_stage_outputs else logits, targets)
            logits = logits.cpu()
            broken = (~logits.isfinite().all(1)).nonzero()[:, 0]
            if len(broken):
                raise NotFiniteError(start + int(broken[0]))
            total_loss += float(loss) * len(images)
            if contextual:
                steps = funnel_steps(model, output)
                known = stages or [None] * len(steps)
                stages = [count_step(step, old, targets) for step, old in zip(steps, known, strict=True)]
            parts.append(_answers(logits.double(), targets.cpu()))
            num_classes = logits.shape[1]
            losses = parts[-1][-1]
            for i in np.argsort(-losses, kind="stable")[:worst].tolist():
                pictures[start + i] = (losses[i], images[i].float().cpu())
            keep = sorted(pictures, key=lambda position: (-pictures[position][0], position))[:worst]
            pictures = {position: pictures[position] for position in keep}
            start += len(images)
        if not parts:
            raise ReportError("there are no images to evaluate")
        with precision():
            timer.repeat_the_only_batch()
    truths, predictions, ranks, confidences, losses = map(np.concatenate, zip(*parts, strict=True))
    return Scores(
        num_classes,
        truths,
        predictions,
        ranks,
        confidences,
        losses,
        loss=total_loss / start,
        stages=tuple(stages),
        pictures={position: image for position, (_, image) in pictures.items()},
        with_decoding=timer.with_decoding,
        network=timer.network,
    )


def _answers(logits: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
    """Return targets, predictions, ranks, confidences and losses, (B,) each, of logits (B, classes)."""
    logs = logits.log_softmax(1)
    predictions = logits.argmax(1)
    of_truth = logits.gather(1, targets[:, None])
    earlier = torch.arange(logits.shape[1], device=targets.device) < targets[:, None]
    ranks = ((logits > of_truth) | ((logits == of_truth) & earlier)).sum(1)
    confidences = logs.gather(1, predictions[:, None])[:, 0].exp()
    losses = -logs.gather(1, targets[:, None])[:, 0]
    return tuple(values.numpy() for values in (targets, predictions, ranks, confidences, losses))


class _Timer:
    """Adds up the seconds of loading and answering, without the first batch."""

    def __init__(self, clock: Callable[[], float], device: torch.device) -> None:
        self._clock = clock
        self._device = device
        self._batches = self._images = 0
        self._loading = self._answering = 0.0
        self._only: tuple[Callable[[Tensor], object], Tensor] | None = None
        self._repeated: Speed | None = None

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        return self._clock()

    def loading(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches that have images."""
        iterator = iter(batches)
        while True:
            start = self._now()
            batch = next(iterator, None)
            if batch is None:
                return
            if self._batches:
                self._loading += self._now() - start
            if len(batch[0]):
                yield batch

    def answering(self, forward: Callable[[Tensor], Any], images: Tensor) -> Any:
        """Run the network on a batch."""
        start = self._now()
        output = forward(images)
        self._batches += 1
        self._only = (forward, images) if self._batches == 1 else None
        if self._batches > 1:
            self._answering += self._now() - start
            self._images += len(images)
        return output

    def repeat_the_only_batch(self) -> None:
        """Time the first batch again if no other came."""
        if self._only:
            forward, images = self._only
            start = self._now()
            for _ in range(_REPEATS):
                forward(images)
            self._repeated = Speed(_REPEATS * len(images), max(self._now() - start, 1e-9))

    @property
    def with_decoding(self) -> Speed | None:
        return Speed(self._images, max(self._loading + self._answering, 1e-9)) if self._images else None

    @property
    def network(self) -> Speed:
        return self._repeated or Speed(self._images, max(self._answering, 1e-9))
