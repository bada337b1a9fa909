"""One loop over a data set, and one evaluator for each task."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from ctxvision.data import DataModule
from ctxvision.inference import Predictor
from ctxvision.runs import Run
from ctxvision.tasks.registry import module_of

from .scores import Scores
from .source import DataRequest, Inputs, Source
from .speed import Stopwatch

_LOW_PRECISION = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
PRECISIONS = ("32", *_LOW_PRECISION)


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
        """Take in the outputs of `compute` for a batch, and what is true of its samples."""

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
    **options: Any,
) -> Scores:
    """Run a network over a data set and measure how good its answers are.

    Args:
        predictor: The network, see `ctxvision.inference.open_predictor`.
        data: A DATA argument, such as a folder or ``"digits"``, which is opened as the network wants it; or a data
            module of this library, of which the part is read that its ``val_dataloader`` gives.
        split: The part to read, ``"val"``, ``"train"`` or, except for detectors, ``"all"``; by default what the
            network was not trained on.
        batch_size: The number of samples that the network takes at a time; by default it depends on the task.
        workers: The number of processes that decode; by default one for each processor, at most 8, where there is
            enough to decode.
        strict: Whether the first sample that cannot be used raises an error; else such samples do not count.
        precision: ``"32"``, ``"16-mixed"`` or ``"bf16-mixed"``; on the CPU the last two are the same.
        examples: How many samples a page can show: of classification those with the highest losses, of detection
            and segmentation samples that are spread over the data.
        run: What is left of the training; its curves and its checkpoint are named in the numbers.
        options: What only one task has: for classification ``real`` (the path of ImageNet-ReaL's ``real.json``),
            ``labels_by_index`` (class folders are numbers) and ``spread`` (how many more samples to keep, spread
            over the data); for detection ``threshold`` (the least score of an object in an example) and
            ``without_truth`` (images without a single object will do); for video ``clips`` and ``crops`` (how
            often each video is looked at).

    Returns:
        The scores; `ctxvision.pages.render_scores` makes a page of them.

    Raises:
        DataError: The data cannot be used, or have classes that the network lacks.
        EvaluationError: Not one sample can be read, there is nothing to find on any, or an output of a classifier
            is NaN or infinite.

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
    return score(evaluator, evaluator.source.batches(predictor.device), precision=precision)


def score(
    evaluator: Evaluator,
    batches: Iterable[tuple[Inputs, Any]],
    *,
    precision: str = "32",
    clock: Callable[[], float] = time.perf_counter,
) -> Scores:
    """Give an evaluator every batch of a data set: the one loop of all evaluations.

    Args:
        evaluator: Of a network, which is in evaluation mode.
        batches: Inputs on the device of the network, never none, and what is true of them.
        precision: One of `PRECISIONS`.
        clock: Returns the time in seconds.
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
