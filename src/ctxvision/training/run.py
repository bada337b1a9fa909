"""Training from Python: one function that does what ``ctxvision train`` does."""

import dataclasses
import os
from typing import Any

from ctxvision.runs import Run

from .options import TrainOptions
from .settings import complete, options_class_of, resumed_options


def train(
    model: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    recipe: str | None = None,
    out: str | os.PathLike[str] | None = None,
    task: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    init_from: str | os.PathLike[str] | None = None,
    options: TrainOptions | None = None,
    **more: Any,
) -> Run:
    """Train a network, as ``ctxvision train`` does, and return what the run has left.

    What counts is first the arguments of this function, then ``options``, then the run that is resumed, then the
    recipe, then the defaults. The function can be called several times in one process; it leaves signal handlers,
    environment variables and random number generators as they were. Results go to the log ``ctxvision.training``
    (level INFO), notes too (level WARNING).

    Args:
        model: Name of the network, as `ctxvision models` lists it.
        data: Folder of images or another source, or the name of embedded data such as ``"digits"``.
        recipe: Name of a paper's settings, as `ctxvision recipes` lists them.
        out: Run folder; ``None`` makes ``runs/MODEL-DATA-N`` with the first free number N.
        task: Name of the task, such as ``"detection"``; ``None`` takes the task of ``options`` or of the recipe,
            or classification.
        resume: Run folder, or checkpoint in one, to continue from; its settings then need not be repeated.
        init_from: File, run folder or name of one of timm's pretrained networks whose weights the training starts
            from.
        options: Options of the task, such as `DetectionOptions`; those that differ from their defaults count.
        more: Single options by name, such as ``epochs=3``: the fields of the options class of the task.

    Raises:
        OptionError: An option is unknown, or has a value that it cannot have.
        TrainingError: The run folder is in use, nothing can be resumed, or the training has failed.
        TrainingStopped: A signal such as that of Ctrl-C (it is a `KeyboardInterrupt`) has ended the run; what it
            has left can be resumed.
        DataError: The data cannot be used.
        TaskError: The network is unknown, or the training has failed.
        CheckpointError: The weights to start from cannot be used.

    Examples:
        >>> run = train("cotnet_micro", "digits", epochs=3, out="runs/first")  # doctest: +SKIP
        >>> run.path  # doctest: +SKIP
        PosixPath('runs/first')
        >>> train("cotnet_micro", "digits", epochs=0)
        Traceback (most recent call last):
        ctxvision.training.error.OptionError: --epochs must be at least 1, got 0
    """
    named = {"model": model, "data": data, "recipe": recipe, "out": out, "task": task, "resume": resume}
    named |= {"init_from": init_from}
    given = {} if options is None else _changed(options)
    given |= {name: os.fspath(value) for name, value in named.items() if value is not None} | more
    given = resumed_options(given) | given
    complete_options = complete(given, options_class_of(given))

    from .session import train_with

    return train_with(complete_options)


def _changed(options: TrainOptions) -> dict[str, Any]:
    """Return the options that differ from their defaults, and the task."""
    fields = dataclasses.fields(options)
    changed = {f.name: getattr(options, f.name) for f in fields if getattr(options, f.name) != f.default}
    return {**changed, "task": options.task}
