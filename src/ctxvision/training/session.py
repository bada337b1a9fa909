"""One training run from complete options to its run folder."""

import dataclasses
import logging
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import yaml
from lightning.pytorch import Trainer

from ctxvision.data import DataModule
from ctxvision.files import write_whole
from ctxvision.recipes import load_recipe
from ctxvision.runs import Run, RunFolder, read_run
from ctxvision.wording import plural

from . import batch_plan, run_folder
from .batch_plan import BatchPlan
from .callbacks import RunCheckpoints
from .environment import Environment
from .error import TrainingError, TrainingStopped
from .options import TrainOptions
from .preparation import prepare
from .processes import group as process_group
from .processes import launch as processes
from .saving import disk_errors_explained, set_aside
from .trackers import Trackers
from .trainer import epochs_of, make_trainer

log = logging.getLogger(__name__)


def train_with(options: TrainOptions) -> Run:
    """Train, and return what the run has left.

    Afterwards signal handlers, environment variables and the states of the random number generators are as before.

    Args:
        options: Options of the run, complete.

    Raises:
        TrainingError: The run folder is in use, nothing can be resumed, or the training has failed.
        TrainingStopped: A signal has ended the run, which can be resumed.
        DataError: The data cannot be used.
        TaskError: The model is unknown, or the training has failed.
        CheckpointError: The weights to start from cannot be used.
    """
    with ExitStack() as until_end, _surroundings_restored():
        return _train(options, until_end)


def _train(options: TrainOptions, until_end: ExitStack) -> Run:
    plan = batch_plan.solve(
        options.batch_size or 0,
        options.devices or 1,
        options.nodes or 1,
        micro_batch=options.micro_batch,
        accumulate=options.accumulate,
    )
    run, resumed = run_folder.choose(options)
    options, data, task = prepare(options, plan, run, resumed)
    settings = dataclasses.asdict(dataclasses.replace(options, out=str(run.path), resume=None))
    trackers = Trackers(options.logger, run, settings)
    epochs = epochs_of(options, data, plan)
    trainer, stop, checkpoints = make_trainer(options, plan, epochs, run, task, trackers.loggers)
    tracked: AbstractContextManager[None] = nullcontext()
    if trainer.is_global_zero:
        environment = Environment()
        until_end.enter_context(run_folder.held(run))
        environment.write(run, trainer, resumed, settings)
        if resumed and Path(options.resume or "").is_file():
            set_aside(run, resumed)
        write_whole(run.settings_file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        log.info(f"{'continuing' if resumed else 'training'} {options.model} on {options.data} in {run.path}")
        log.info(_describe_batch(options, plan))
        if options.steps:
            log.info(f"{plural(options.steps, 'step')}, rounded up to {plural(epochs, 'epoch')}")
        tracked = trackers.opened()
    try:
        with stop.installed(), disk_errors_explained(run.path), tracked:
            if (launch := processes.launched()) and launch.by == "torchrun":
                process_group.join(trainer.strategy.root_device)
            trainer.fit(task, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as error:
        if not stop.signal_number and trainer.interrupted:
            raise KeyboardInterrupt from error  # of which Lightning makes the end of the program
        if not stop.signal_number:
            raise
        process_group.leave()
        message = _stop_message(trainer, run, data)
        if trainer.is_global_zero:
            log.warning(message)
        raise TrainingStopped(message, stop.signal_number) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        raise TrainingError(f"--compile failed, leave it out ({str(error).strip().splitlines()[0]})") from error
    except RuntimeError as error:
        if not process_group.is_lost_process(error):
            raise
        raise TrainingError("another process of this run has ended; what it said tells why") from error
    bad = process_group.merged(data.bad_images)
    process_group.leave()
    if trainer.is_global_zero:
        _report_end(trainer, task.monitor_name, checkpoints, bad)
        return read_run(run.path)
    return Run(run.best, (), settings, path=run.path)  # another machine need not see the files


def _describe_batch(options: TrainOptions, plan: BatchPlan) -> str:
    """Say how the batch is shared out, and that the learning rate was left alone."""
    line = f"{plan}; lr {options.lr:g}"
    if not options.recipe:
        return line
    recipe = load_recipe(options.recipe).settings_for(options.model or "")
    if options.lr != recipe.get("lr"):
        return f"{line} instead of {recipe['lr']:g} in the recipe {options.recipe}"
    line += f" as in the recipe {options.recipe}"
    if options.batch_size == recipe["batch_size"]:
        return line
    in_proportion = recipe["lr"] * (options.batch_size or 0) / recipe["batch_size"]
    return f"{line} for {recipe['batch_size']}; in proportion it would be --lr {in_proportion:g}"


def _stop_message(trainer: Trainer, run: RunFolder, data: DataModule) -> str:
    skipped = f"skipped {plural(len(data.bad_images), 'bad image')}; " if data.bad_images else ""
    advice = "there was nothing to save yet"
    if run.last.is_file():
        advice = f"continue with: ctxvision train --resume {run.path}"
    return f"{skipped}stopped in epoch {trainer.current_epoch + 1}; {advice}"


def _report_end(trainer: Trainer, what: str, checkpoints: RunCheckpoints, bad: dict[str, str]) -> None:
    if bad:
        log.warning(f"skipped {plural(len(bad), 'bad image')}, named above")
    log.info(f"best {what} {checkpoints.best_value:.2%} in epoch {checkpoints.best_epoch} of {trainer.max_epochs}")
    log.info(f"checkpoint {checkpoints.run.best}")


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
