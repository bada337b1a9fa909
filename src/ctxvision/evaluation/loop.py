"""One loop over a data set, and one evaluator for each task."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from ctxvision.data import DataModule
from ctxvision.inference import Predictor
from ctxvision.progress import Progress, counted, silent
from ctxvision.runs import Run
from ctxvision.tasks.registry import module_of

from .scores import Scores
from .source import DataRequest, Inputs, Source
from .speed import Stopwatch

_LOW_PRECISION = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
PRECISIONS = ("32", *_LOW_PRECISION)
"""Precisions that a network can be evaluated in; the last two are those of Lightning's mixed precision."""


class Evaluator(Protocol):
    """Scores the answers of a network, batch by batch."""

    device: torch.device
    """The device of the network."""
    source: Source
    """The data set."""

    def reset(self) -> None:
        """Forget all batches."""

    def compute(self, inputs: Any) -> Any:
        """Run the network on the inputs of a batch."""

    def process(self, inputs: Any, targets: Any, outputs: Any) -> None:
        """Take in the outputs of `compute` for a batch, and the targets of its samples."""

    def evaluate(self, watch: Stopwatch, precision: str) -> Scores:
        """Return the scores of all batches since the last `reset`."""


def evaluate(
    predictor: Predictor,
    data: str | os.PathLike[str] | DataModule,
    *,
    split: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    precision: str = "32",
    examples: int = 24,
    run: Run | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Scores:
    """Run a network over a data set and measure the quality of its answers.

    Args:
        predictor: The network, see `ctxvision.inference.open_predictor`.
        data: A DATA argument, such as a folder or ``"digits"``, which is opened as the network requires it; or a
            data module of this library, of which the part that its ``val_dataloader`` yields is read.
        split: The part to read, ``"val"``, ``"train"`` or, except for detectors, ``"all"``; by default the part
            that the network was not trained on.
        batch_size: The number of samples that the network takes at a time; by default it depends on the task.
        workers: The number of processes that decode; by default one for each processor, at most 8, if there are
            enough samples to decode.
        strict: Whether the first sample that cannot be used raises an error; by default such samples are left out.
        precision: ``"32"``, ``"16-mixed"`` or ``"bf16-mixed"``; on the CPU the last two are the same.
        examples: The number of samples that a page can show: for classification those with the highest losses, for
            detection and segmentation samples that are spread over the data.
        run: The run of the training; its curves and its checkpoint are named in the numbers.
        progress: The function that is told how many samples have been read; see `ctxvision.progress`.
        options: Further options of one task: for classification ``real`` (the path of ImageNet-ReaL's
            ``real.json``), ``labels_by_index`` (whether class folders are numbers) and ``spread`` (the number of
            further samples to keep, spread over the data); for detection ``threshold`` (the lowest score of an
            object in an example) and ``without_truth`` (whether data without a single object are accepted); for
            video ``clips`` and ``crops`` (the numbers of clips per video and of crops per clip).

    Returns:
        The scores; `ctxvision.pages.render_scores` makes a page of them.

    Raises:
        DataError: The data cannot be used, or have classes that the network does not have.
        EvaluationError: No sample can be read, no sample has an object or a labelled pixel, or an output of a
            classifier is NaN or infinite.

    Examples:
        >>> from ctxvision.inference import open_predictor
        >>> scores = evaluate(open_predictor("runs/first"), "digits")  # doctest: +SKIP
        >>> scores.numbers["top1"]  # doctest: +SKIP
        0.9861
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    task = module_of("evaluation", predictor.task)
    request = DataRequest(data, split, batch_size, workers, strict)
    evaluator: Evaluator = task.make_evaluator(predictor, request, examples=examples, run=run, **options)
    source = evaluator.source
    predictor.expect(source.count())
    batches = counted(
        source.batches(predictor.device),
        progress,
        f"evaluating {predictor.sample_name}s",
        source.count(),
        size=lambda batch: len(batch[0]),
    )
    return score(evaluator, batches, precision=precision)


def score(
    evaluator: Evaluator,
    batches: Iterable[tuple[Inputs, Any]],
    *,
    precision: str = "32",
    clock: Callable[[], float] = time.perf_counter,
) -> Scores:
    """Give every batch of a data set to an evaluator; all evaluations use this loop.

    Args:
        evaluator: The evaluator of a network that is in evaluation mode.
        batches: Pairs of inputs on the device of the network, at least one sample each, and their targets.
        precision: One of `PRECISIONS`.
        clock: A function that returns the time in seconds.

    Returns:
        The scores of all batches.
    """
    watch = Stopwatch(evaluator.device, clock)
    evaluator.reset()
    inputs: Inputs | None = None
    for inputs, targets in watch.loading(batches):
        with _autocast(evaluator.device, precision):
            evaluator.process(inputs, targets, watch.answering(evaluator.compute, inputs))
    if inputs is not None:
        with _autocast(evaluator.device, precision):
            watch.repeat_the_only_batch(evaluator.compute, inputs)
    return evaluator.evaluate(watch, precision)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    if precision not in _LOW_PRECISION:
        return nullcontext()
    # CPUs compute in bfloat16 what is asked for in float16
    return torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else _LOW_PRECISION[precision])
