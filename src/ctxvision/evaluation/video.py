"""The evaluation of video networks: accuracy over clips and crops, by class, and instructive clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctxvision.data import VideoData
from ctxvision.foreign import visible
from ctxvision.inference.video import Clip, VideoPredictor
from ctxvision.runs import Run
from ctxvision.wording import plural

from .answers import class_table, confusion_matrix, wilson_interval
from .scores import EvaluationError, Scores
from .source import DataRequest, Source
from .speed import Stopwatch

_PER_CLASS = 2  # examples
_CLASSES = 12


@dataclass(frozen=True)
class VideoExample:
    """An instructive video: the worst mistake of its class, or a right answer.

    Attributes:
        file: The name of the video.
        truth: The name of the true class of the video.
        clips: The answers of each network to a clip of the video.
    """

    file: str
    truth: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True, repr=False)
class VideoScores(Scores):
    """The scores of a video network, with the examples for a page about it.

    Attributes:
        examples: The worst mistake of each class, if there is one, and right answers.
        data: The data module that can open the videos.
    """

    examples: tuple[VideoExample, ...] = field(kw_only=True)
    data: VideoData = field(kw_only=True)


def make_evaluator(
    predictor: VideoPredictor,
    request: DataRequest,
    *,
    examples: int,
    run: Run | None,
    clips: int = 1,
    crops: int = 1,
) -> "VideoEvaluator":
    """Open the data for a video network; see `ctxvision.evaluation.evaluate`."""
    source = request.open(predictor.data_spec, "video", batch_size=16, test_clips=clips, test_crops=crops)
    return VideoEvaluator(predictor, source, examples=examples, run=run)


class VideoEvaluator:
    """Scores a video network; see `ctxvision.evaluation.loop.Evaluator`.

    Args:
        predictor: The network.
        source: The videos and their classes.
        examples: The number of examples that the user asks for; 0 keeps none, other numbers keep instructive
            videos of each class.
        run: The run of the training, with its curves and settings; ``None`` if there is none.
    """

    def __init__(
        self, predictor: VideoPredictor, source: Source, *, examples: int = 0, run: Run | None = None
    ) -> None:
        self.predictor, self.source, self.device = predictor, source, predictor.device
        self.examples, self.run = examples, run
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._probabilities: list[NDArray[np.float64]] = []
        self._targets: list[NDArray[np.int64]] = []

    def compute(self, clips: Tensor) -> Tensor:
        """Return the logits (B, N) of clips (B, T, C, H, W), or of V views of videos (B, V, T, C, H, W)."""
        return self.predictor.raw(clips)

    def process(self, clips: Tensor, targets: Tensor, logits: Tensor) -> None:
        """Count the answers to videos, (B, T, C, H, W) or (B, V, T, C, H, W), with true classes (B,)."""
        self._probabilities.append(logits.cpu().double().softmax(1).numpy())
        self._targets.append(targets.cpu().numpy())

    def evaluate(self, watch: Stopwatch, precision: str) -> VideoScores:
        """Return the scores.

        Raises:
            EvaluationError: There were no videos.
        """
        if not self._targets:
            raise EvaluationError("not one video can be read")
        data, spec = cast(VideoData, self.source.module), self.predictor.data_spec
        names, targets = list(spec.class_names), np.concatenate(self._targets)
        probabilities = np.concatenate(self._probabilities)
        numbers = {
            "data": self.source.name,
            "split": self.source.split,
            "videos": len(targets),
            "unread": len(data.bad_images),
            "bad_images": self.source.bad_samples(),
            "chance": 1 / len(names),
            "class_names": names,
            "frames": spec.frames,
            "image_size": list(spec.input_size),
            "networks": [self._network(targets, probabilities.argmax(1), names)],
        }
        chosen = _instructive(targets, probabilities) if self.examples else []
        files = [name for name, _ in data.eval_samples if name not in data.bad_images]
        clips = watch_videos(self.predictor, data, [files[row] for row in chosen])
        examples = [
            VideoExample(files[row], names[targets[row]], (clip,))
            for row, clip in zip(chosen, clips, strict=True)
            if not clip.error
        ]
        return VideoScores("video", numbers, _lines(numbers), examples=tuple(examples), data=data)

    def _network(
        self, targets: NDArray[np.int64], predictions: NDArray[np.int64], names: Sequence[str]
    ) -> dict[str, Any]:
        confusion = confusion_matrix(targets, predictions, len(names))
        right = int(confusion.diagonal().sum())
        module, network = self.predictor.module, self.predictor.network
        shift = None if module is None else str(module.hparams["shift"])
        epochs = self.run.epochs if self.run else ()
        return {
            "name": {None: self.predictor.model_name, "none": "TSN"}.get(shift, "TSM"),
            "model": self.predictor.model_name,
            "shift": shift,
            "parameters": None if network is None else sum(p.numel() for p in network.parameters()),
            "right": right,
            "top1": right / len(targets),
            "top1_interval95": list(wilson_interval(right, len(targets))),
            "classes": class_table(confusion, names),
            "confusion": confusion.tolist(),
            "curve": [epoch.val_top1 for epoch in epochs],
            "seconds": sum(epoch.seconds or 0.0 for epoch in epochs) or None,
            "checkpoint": "" if self.run is None else str(self.run.checkpoint),
        }


def watch_videos(predictor: VideoPredictor, data: VideoData, names: Sequence[str]) -> list[Clip]:
    """Return the answers of a network to one clip of each named video, for the whole clip and for each frame."""
    answers = predictor([data.open_video(name) for name in names], workers=0) if names else ()
    return [cast(Clip, answer) for answer in answers]


def beside(scores: VideoScores, control: VideoScores, clips: Sequence[Clip]) -> VideoScores:
    """Put the scores of a control beside the scores of a network on the same videos.

    Args:
        scores: The scores of the network that a page is about.
        control: The scores of the other network.
        clips: The answers of the other network to the examples of the first, one clip per example.

    Returns:
        The scores of both networks, with the answers of both to each example.
    """
    numbers = scores.numbers | {"networks": scores.numbers["networks"] + control.numbers["networks"]}
    examples = tuple(
        VideoExample(one.file, one.truth, (*one.clips, clip))
        for one, clip in zip(scores.examples, clips, strict=True)
    )
    return VideoScores("video", numbers, (*control.lines, *scores.lines), examples=examples, data=scores.data)


def _instructive(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[int]:
    """Choose a right answer of each class and, if there is one, the worst mistake."""
    rows: list[int] = []
    right = probabilities.argmax(1) == targets
    for label in np.unique(targets)[:_CLASSES]:
        good, bad = np.flatnonzero((targets == label) & right), np.flatnonzero((targets == label) & ~right)
        bad = bad[np.argsort(probabilities[bad, label], kind="stable")]
        rows += [int(row) for row in (*bad[:1], *good)][:_PER_CLASS]
    return rows


def _lines(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    (network,) = numbers["networks"]
    low, high = (f"{value:.2%}" for value in network["top1_interval95"])
    counted = f"top-1 {network['top1']:.2%} of {plural(numbers['videos'], 'video')}"
    limits = f"95% interval {low} to {high}, chance {numbers['chance']:.2%}"
    return (visible(f"{network['name']}: {counted}, {limits} ({numbers['split']} of {numbers['data']})"),)
