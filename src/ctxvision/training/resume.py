"""Whether a run may be continued with these settings, these images and this network."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctxvision.runs import RunFolder
from ctxvision.tasks import Task, load_task
from ctxvision.training.error import TrainingError

from .options.base import TrainConfig

log = logging.getLogger(__name__)

# What a resumed run may do differently; everything else is part of what the run is.
_MAY_CHANGE = {
    "data", "out", "resume", "epochs", "steps", "val_every", "strict", "workers", "prefetch", "precision",
    "accelerator", "channels_last", "compile", "skip_nan", "save_minutes", "logger", "pictures",
}  # fmt: skip


def require_same_settings(config: TrainConfig, folder: Path) -> None:
    """Refuse what a checkpoint would override anyway, or what would make the run another one.

    Where its settings cannot be read, the checkpoint alone says what the run is.

    Raises:
        TrainingError: a setting has changed.
    """
    before = RunFolder(folder).read_settings()
    for name, value in dataclasses.asdict(config).items():
        value = list(value) if isinstance(value, tuple) else value  # as YAML has it
        if name not in _MAY_CHANGE and name in before and before[name] != value:
            raise TrainingError(
                f"{folder}: its {name} is {before[name]}, not {value}; a resumed run keeps its settings, "
                f"leave out --{name} or begin a new run"
            )


def in_order_of(checkpoint: Path, data: Any, open_again: Callable[[Sequence[str]], Any]) -> Any:
    """Return the data with the classes in the order of a run that began with another, as earlier versions had it.

    Args:
        checkpoint: of the run.
        data: as this version opens them.
        open_again: opens them with the classes in this order.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    before, now = load_task(checkpoint).data_spec.get("class_names", ()), data.spec.class_names
    return open_again(tuple(before)) if sorted(before) == sorted(now) and tuple(before) != now else data


def require_same_task(task: Task, checkpoint: Path) -> None:
    """Refuse another network, or images of other classes or sizes.

    Raises:
        TrainingError: the checkpoint is of another task.
        CheckpointError: it cannot be read.
    """
    previous = load_task(checkpoint, trust=True)
    if previous.kind != task.kind:
        raise TrainingError(f"{checkpoint}: its task is {previous.kind}, not {task.kind}")
    for what in ("model", "model_args"):
        if previous.hparams[what] != task.hparams[what]:
            raise TrainingError(f"{checkpoint}: its {what} is {previous.hparams[what]}, not {task.hparams[what]}")
    for what in ("class_names", "input_size"):
        before, now = (t.data_spec.get(what) for t in (previous, task))
        if before != now:
            raise TrainingError(f"{checkpoint}: its {what} is {before}, not {now}")
    if previous.data_spec.get("fingerprint") != task.data_spec.get("fingerprint"):
        log.warning("the images are not those that the run began with; others may be held out now")
