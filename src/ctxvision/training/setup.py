"""What a run is made of: the data, the task and the trainer, from the settings."""

import dataclasses
import logging
import math
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.recipes import load_recipe
from ctxvision.runs import RunFolder
from ctxvision.tasks import Task
from ctxvision.tasks.optimization import require_optimizer
from ctxvision.training.error import TrainingError
from ctxvision.wording import plural

from .batch_plan import BatchPlan
from .callbacks.epoch_so_far import EpochSoFar
from .callbacks.finite_steps import FiniteSteps
from .callbacks.graceful_stop import GracefulStop
from .callbacks.last_epoch import LastEpochValidated
from .callbacks.metrics_file import EpochLines, MetricsFile
from .callbacks.run_checkpoints import RunCheckpoints
from .callbacks.step_seed import StepSeed
from .checkpoint_io import RunCheckpointIO
from .options.base import TrainConfig
from .pictures import Curves
from .processes.sharding import make_sharded
from .trackers import TrackedRate

log = logging.getLogger(__name__)


def build_task(config: TrainConfig, data: Any) -> Task:
    """Build the task with its network.

    Raises:
        TrainingError: the network cannot recompute its activations.
        TaskError: unknown names or arguments, or an optimiser that cannot train here.
    """
    require_optimizer(config.optimizer, config.optimizer_args)
    task = config.build_task(data)
    if config.grad_checkpointing:
        try:
            task.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise TrainingError(
                f"{config.model} cannot be trained with --grad_checkpointing; leave it out"
            ) from error
    return task


def warm_start_task(task: Task, source: str, *, partial: bool) -> None:
    """Load the weights of ``--init_from``, and say which.

    Raises:
        CheckpointError: they cannot be used.
    """
    report = task.start_from(source, partial=partial)
    if not rank_zero_only.rank:
        for line in str(report).splitlines():
            log.warning(line)


def require_fit(task: Task) -> tuple[str, ...]:
    """Give the task one sample of zeros, because some networks refuse small images or all sizes but one.

    Returns:
        Names of the batch norms that a single sample gives one value per channel.

    Raises:
        TrainingError: this one does.
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
        raise TrainingError(
            f"{which} does not take {shape} images; try another {_size_option(task)} ({error})"
        ) from error


def note_single_values(config: TrainConfig, plan: BatchPlan, norms: tuple[str, ...]) -> None:
    """Say which norms are not trained where a device computes with one image at a time."""
    if norms and plan.images == 1 and not synchronizes(config):
        log.warning(
            f"one image at a time: {plural(len(norms), 'batch norm')} of single values ({norms[0]}"
            f"{', …' if len(norms) > 1 else ''}) keep the statistics that they have; two or more on a device "
            "(--batch_size, --micro_batch) train them"
        )


def _size_option(task: Task) -> str:
    return {"detection": "--min_size", "segmentation": "--crop_size"}.get(task.kind, "--image_size")


def make_trainer(
    config: TrainConfig,
    plan: BatchPlan,
    epochs: int,
    folder: Path,
    stop: GracefulStop,
    checkpoints: RunCheckpoints,
    loggers: list[Logger],
) -> Trainer:
    """Build Lightning's trainer with everything that looks after a run.

    Raises:
        TrainingError: Lightning has no such accelerator or devices.
    """
    on_terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [
        StepSeed(config.seed),
        LastEpochValidated(),
        FiniteSteps(config.skip_nan, checkpoints.last),
    ]
    metrics = MetricsFile(RunFolder(folder))
    callbacks += [EpochSoFar(), metrics, TrackedRate(metrics)]
    if config.pictures:
        callbacks.append(Curves(folder / "curves.png", metrics))
    callbacks.append(RichProgressBar(leave=True) if on_terminal else EpochLines())
    if config.ema:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    callbacks += [stop, checkpoints]  # after the average has been updated
    try:
        return Trainer(
            accelerator=config.accelerator,
            strategy=make_sharded(config) if config.strategy == "fsdp" else "auto",
            devices=config.devices,
            num_nodes=config.nodes,
            precision="32" if config.strategy == "fsdp" and config.precision == "64-true" else config.precision,
            max_epochs=epochs,
            check_val_every_n_epoch=config.val_every,
            accumulate_grad_batches=plan.accumulate,
            gradient_clip_val=config.clip_grad or None,
            callbacks=callbacks,
            plugins=[RunCheckpointIO(folder)],
            logger=loggers,
            log_every_n_steps=10,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data modules share out their own images
            sync_batchnorm=synchronizes(config) and config.strategy != "fsdp",
            default_root_dir=folder,
        )
    except (ValueError, RuntimeError) as error:  # Lightning's messages about accelerators and devices
        raise TrainingError(str(error)) from error


def synchronizes(config: TrainConfig) -> bool:
    """Tell whether batch normalisation sees the images of all devices, which GPUs alone can do."""
    several = (config.devices or 1) * (config.nodes or 1) > 1
    on_gpus = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return several and on_gpus and config.sync_batchnorm


def describe_batch(config: TrainConfig, plan: BatchPlan) -> str:
    """Say how the batch is shared out, and that the learning rate was left alone."""
    line = f"{plan}; lr {config.lr:g}"
    if not config.recipe:
        return line
    recipe = load_recipe(config.recipe).settings_for(config.model or "")
    if config.lr != recipe.get("lr"):
        return f"{line} instead of {recipe['lr']:g} in the recipe {config.recipe}"
    line += f" as in the recipe {config.recipe}"
    if config.batch_size == recipe["batch_size"]:
        return line
    in_proportion = recipe["lr"] * (config.batch_size or 0) / recipe["batch_size"]
    return f"{line} for {recipe['batch_size']}; in proportion it would be --lr {in_proportion:g}"


def with_image_size(config: TrainConfig, data: Any) -> TrainConfig:
    """Note the size that the data have chosen, where there is one."""
    if not hasattr(config, "image_size"):
        return config
    return dataclasses.replace(config, image_size=data.spec.input_size[1])


def epochs_of(config: TrainConfig, data: Any, plan: BatchPlan) -> int:
    """Count the epochs of a run, whose length may be given in optimiser steps."""
    if not config.steps:
        return config.epochs or 1
    images = plan.images * plan.accumulate
    per_epoch = max(1, data.batches_per_epoch * plan.images // images // (plan.devices * plan.nodes))
    return math.ceil(config.steps / per_epoch)
