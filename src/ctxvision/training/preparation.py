"""The data and the task of a run, ready to be trained, and the same as before where a run is resumed."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ctxvision.data import DataModule
from ctxvision.runs import RunFolder
from ctxvision.tasks import Task, load_task
from ctxvision.tasks.optimization import require_optimizer
from ctxvision.wording import plural

from .batch_plan import BatchPlan
from .error import TrainingError
from .options import TrainOptions
from .processes.group import rank
from .processes.sharding import synchronizes_norms

log = logging.getLogger(__name__)

# Options that a resumed run may change; all others are part of what the run is. The checkpoint says which task it
# is of; settings of earlier versions have another word for it.
_MAY_CHANGE = {
    "data", "task", "out", "resume", "epochs", "steps", "val_every", "strict", "workers", "prefetch", "precision",
    "accelerator", "channels_last", "compile", "skip_nan", "save_minutes", "logger", "pictures",
}  # fmt: skip


def prepare(
    options: TrainOptions, plan: BatchPlan, run: RunFolder, resumed: Path | None
) -> tuple[TrainOptions, DataModule, Task]:
    """Open the data, build the task and its network, and load the weights to start from.

    Args:
        options: Options of the run, complete.
        plan: Plan by which the batch is shared out.
        run: Folder of the run.
        resumed: Checkpoint that the run continues from, if any; Lightning loads it later.

    Returns:
        The options with the image size that the data have chosen, the data and the task.

    Raises:
        TrainingError: The network does not take the images, or a resumed run would become another one.
        DataError: The data cannot be used.
        TaskError: A name or an argument is unknown, or the optimiser cannot train here.
        CheckpointError: The weights to start from cannot be used.
    """
    data = options.open_data(plan.images)
    if resumed:
        data = _in_order_of(resumed, data, functools.partial(options.open_data, plan.images))
    if "image_size" in vars(options):
        size: dict[str, Any] = {"image_size": data.spec.to_dict()["input_size"][1]}
        options = dataclasses.replace(options, **size)
    torch.manual_seed(options.seed)
    task = build_task(options, data)
    norms = _require_fit(task)
    if resumed:
        _require_same_options(options, run)
        _require_same_task(task, resumed)
    elif options.init_from:
        report = task.start_from(options.init_from, partial=options.init_partial)
        _note(*str(report).splitlines())
    if options.compile:
        task.compile_network()
    if options.precision == "64-true":
        task.double()  # Lightning would do so after it has copied the weights for the average
    for line in data.notes:
        log.warning(line)
    if norms and plan.images == 1 and not synchronizes_norms(options):
        _note(
            f"one image at a time: {plural(len(norms), 'batch norm')} of single values ({norms[0]}"
            f"{', …' if len(norms) > 1 else ''}) keep the statistics that they have; two or more on a device "
            "(--batch_size, --micro_batch) train them"
        )
    return options, data, task


def build_task(options: TrainOptions, data: DataModule) -> Task:
    """Build the task with its network.

    Args:
        options: Options of the run, complete.
        data: Data module that ``options.open_data`` returned.

    Raises:
        TrainingError: The network cannot recompute its activations.
        TaskError: A name or an argument is unknown, or the optimiser cannot train here.
    """
    require_optimizer(options.optimizer, options.optimizer_args)
    task = options.build_task(data)
    if options.grad_checkpointing:
        try:
            task.model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AssertionError, AttributeError) as error:
            raise TrainingError(
                f"{options.model} cannot be trained with --grad_checkpointing; leave it out"
            ) from error
    return task


def _require_fit(task: Task) -> tuple[str, ...]:
    """Give the task one sample of zeros, because some networks refuse small images or all sizes but one.

    Returns:
        Names of the batch norms that a single sample gives one value per channel.

    Raises:
        TrainingError: The network refuses the sample.
    """
    given = task.hparams["model_args"]
    of_arguments = (TypeError, LookupError, AttributeError) if given else ()
    task.train()
    try:
        return task.try_out()
    except (RuntimeError, ValueError, AssertionError, *of_arguments) as error:
        sample = task.example_input()
        shape = " × ".join(map(str, (sample if isinstance(sample, torch.Tensor) else sample[0]).shape[-3:]))
        which = f"{task.hparams['model']} with {given}" if given else task.hparams["model"]
        option = {"detection": "--min_size", "segmentation": "--crop_size"}.get(task.kind, "--image_size")
        raise TrainingError(f"{which} does not take {shape} images; try another {option} ({error})") from error


def _in_order_of(
    checkpoint: Path, data: DataModule, open_again: Callable[[Sequence[str]], DataModule]
) -> DataModule:
    """Return the data with the classes in the order of a resumed run; earlier versions had another order."""
    before, now = load_task(checkpoint).data_spec.get("class_names", ()), data.spec.class_names
    return open_again(tuple(before)) if sorted(before) == sorted(now) and tuple(before) != now else data


def _require_same_options(options: TrainOptions, run: RunFolder) -> None:
    """Refuse what a checkpoint would override anyway, or what would make the run another one.

    Where the options of the run cannot be read, its checkpoint alone says what the run is.

    Raises:
        TrainingError: An option has changed.
    """
    before = run.read_settings()
    for name, value in dataclasses.asdict(options).items():
        value = list(value) if isinstance(value, tuple) else value  # as YAML has it
        if name not in _MAY_CHANGE and name in before and before[name] != value:
            raise TrainingError(
                f"{run.path}: its {name} is {before[name]}, not {value}; a resumed run keeps its settings, "
                f"leave out --{name} or begin a new run"
            )


def _require_same_task(task: Task, checkpoint: Path) -> None:
    """Refuse another network, or images of other classes or sizes.

    Raises:
        TrainingError: The checkpoint is of another task.
        CheckpointError: The checkpoint cannot be read.
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


def _note(*lines: str) -> None:
    if not rank():
        for line in lines:
            log.warning(line)
