"""One training run: `train`, which does what ``ctxvision train`` does, from options to the run folder."""

import dataclasses
import logging
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from ctxvision.data import DataModule, is_embedded
from ctxvision.recipes import load_recipe
from ctxvision.runs import Run, RunFolder, read_run
from ctxvision.tasks.checkpoint_file import epochs_done
from ctxvision.wording import plural

from . import class_paths, processes, run_folder, run_log
from .environment import Environment
from .error import TrainingError, TrainingStopped
from .options import TrainOptions
from .preparation import BatchPlan, epochs_of, prepare, steps_per_epoch
from .settings import basis_of
from .trainer import Trackers, make_trainer

log = logging.getLogger(__name__)


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
    return train_with(basis_of(given).complete(given))


def _changed(options: TrainOptions) -> dict[str, Any]:
    """Return the options that differ from their defaults, and the task."""
    fields = dataclasses.fields(options)
    changed = {f.name: getattr(options, f.name) for f in fields if getattr(options, f.name) != f.default}
    return {**changed, "task": options.task}


def train_with(options: TrainOptions) -> Run:
    """Train, and return what the run has left; it raises what `train` does.

    Afterwards signal handlers, environment variables and the states of the random number generators are as before.

    Args:
        options: Options of the run, complete.
    """
    with ExitStack() as until_end, _surroundings_restored():
        return _train(options, until_end)


def _train(options: TrainOptions, until_end: ExitStack) -> Run:
    run, resumed = run_folder.choose(options)
    own = class_paths.build(Callback, options.callbacks or (), "--callbacks")
    with run_log.collected() as early:
        options, plan, data, task, knows_classes = prepare(options, resumed)
    settings = dataclasses.asdict(dataclasses.replace(options, out=str(run.path), resume=None))
    trackers = Trackers(options.logger, run, settings)
    epochs = epochs_of(options, data, plan)
    if resumed and (done := epochs_done(resumed)) and done >= epochs:
        more = f"--steps {2 * options.steps}" if options.steps else f"--epochs {2 * epochs}"
        log.info(f"{run.path}: is finished, {done} of {plural(epochs, 'epoch')}; more with {more}")
        return read_run(run.path)
    trainer, stop, checkpoints = make_trainer(
        options, plan, epochs, run, task, trackers.loggers, own, knows_classes=knows_classes
    )
    tracked: AbstractContextManager[None] = nullcontext()
    if trainer.is_global_zero:
        environment = Environment()
        until_end.enter_context(run_folder.held(run))
        until_end.enter_context(run_log.kept(run, early))
        if resumed and Path(options.resume or "").is_file():
            run_folder.set_aside(run, resumed)
        environment.write(run, trainer, resumed, settings)
        log.info(f"{'continuing' if resumed else 'training'} {options.model} on {options.data} in {run.path}")
        log.info(_describe_batch(options, plan))
        log.info(_describe_epochs(data, steps_per_epoch(data, plan), epochs))
        if hint := _hint_for_few(options, data, steps_per_epoch(data, plan)):
            log.warning(hint)
        if options.steps:
            log.info(f"{plural(options.steps, 'step')}, rounded up to {plural(epochs, 'epoch')}")
        tracked = trackers.opened()
    try:
        with stop.installed(), run_folder.disk_errors_explained(run.path), tracked:
            if (launch := processes.launched()) and launch.by == "torchrun":
                processes.rendezvous(trainer.strategy.root_device)
            trainer.fit(task, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as error:
        if not stop.signal_number and trainer.interrupted:
            raise KeyboardInterrupt from error  # of which Lightning makes the end of the program
        if not stop.signal_number:
            raise
        processes.leave()
        message = _stop_message(trainer, run, data)
        if trainer.is_global_zero:
            log.warning(message)
        raise TrainingStopped(message, stop.signal_number) from error
    except MisconfigurationException as error:  # Lightning's, about callbacks and loggers of the user
        raise TrainingError(str(error)) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        raise TrainingError(f"--compile failed, leave it out ({str(error).strip().splitlines()[0]})") from error
    except RuntimeError as error:
        if not processes.is_lost_process(error):
            raise
        raise TrainingError("another process of this run has ended; what it said tells why") from error
    bad = processes.merged(data.bad_images)
    processes.leave()
    if trainer.is_global_zero:
        if bad:
            log.warning(f"skipped {plural(len(bad), 'bad image')}, named above")
        if trainer.current_epoch < epochs:
            log.info(f"stopped after {plural(trainer.current_epoch, 'epoch')} of {epochs}, as a callback asked")
        epoch = checkpoints.best_epoch
        when = f"in epoch {epoch} of {trainer.max_epochs}" if epoch else "before the first step"
        log.info(f"best {task.monitor_name} {checkpoints.best_value:.2%} {when}")
        if not epoch and checkpoints.best_value > float("-inf"):
            log.warning("no epoch was better than the weights that the run started from: the checkpoint has those")
        log.info(f"checkpoint {run.best}")
        return read_run(run.path)
    return Run(run.best, (), settings, path=run.path)  # another machine need not see the files


def _describe_batch(options: TrainOptions, plan: BatchPlan) -> str:
    """Say how the batch is shared out, and that the learning rate was left alone."""
    line = f"{plan}; lr {options.lr:g}"
    recipe = options.recipe_settings
    if not recipe:
        return line
    if options.lr != recipe.get("lr"):
        return f"{line} instead of {recipe['lr']:g} in the recipe {options.recipe}"
    line += f" as in the recipe {options.recipe}"
    if options.batch_size == recipe["batch_size"] or not load_recipe(options.recipe or "").models:
        return line
    in_proportion = recipe["lr"] * (options.batch_size or 0) / recipe["batch_size"]
    return f"{line} for {recipe['batch_size']}; in proportion it would be --lr {in_proportion:g}"


def _describe_epochs(data: DataModule, steps: int, epochs: int) -> str:
    """Say how much there is to learn from, and how often the weights change."""
    return (
        f"{plural(data.train_size, data.sample_name)}, {plural(len(data.spec.class_names), 'class', 'classes')}, "
        f"{plural(steps, 'step')} per epoch, {steps * epochs} in all"
    )


_FEW_IMAGES, _FEW_STEPS = 2000, 10


def _hint_for_few(options: TrainOptions, data: DataModule, steps: int) -> str:
    """Return what to do about few steps or few images; empty if they are enough, or the data are embedded."""
    if is_embedded(options.data) or options.resume:
        return ""
    chosen = dataclasses.replace(options, batch_size=None).with_batch_for(data.train_size).batch_size or 0
    if steps < _FEW_STEPS and chosen < (options.batch_size or 0) and data.train_size // chosen > steps:
        return f"few steps: --batch-size {chosen} makes {data.train_size // chosen} of an epoch"
    if options.task == "classification" and not options.recipe and data.train_size < _FEW_IMAGES:
        start = "" if options.init_from else ", or --recipe finetune --init-from NETWORK from trained weights"
        return f"for so few images there is --recipe small, for a small network{start}"
    return ""


def _stop_message(trainer: Trainer, run: RunFolder, data: DataModule) -> str:
    skipped = f"skipped {plural(len(data.bad_images), 'bad image')}; " if data.bad_images else ""
    advice = "there was nothing to save yet"
    if run.last.is_file():
        advice = f"continue with: ctxvision train --resume {run.path}"
    return f"{skipped}stopped in epoch {trainer.current_epoch + 1}; {advice}"


@contextmanager
def _surroundings_restored() -> Iterator[None]:
    """Put back environment variables, which Lightning sets for the processes of a run, and random states."""
    variables = dict(os.environ)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        # the service of Weights & Biases outlives a run, and is found by its variable
        for name in {name for name in os.environ if not name.startswith("WANDB")} - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
