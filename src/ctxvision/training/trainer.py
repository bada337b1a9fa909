"""Lightning's trainer with everything that looks after a run."""

import math
import sys

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import Logger

from ctxvision.data import DataModule
from ctxvision.runs import RunFolder
from ctxvision.tasks import Task

from .batch_plan import BatchPlan
from .callbacks import (
    Curves,
    EpochLines,
    EpochSoFar,
    FiniteSteps,
    GracefulStop,
    LastEpochValidated,
    MetricsFile,
    RunCheckpoints,
    StepSeed,
    TrackedRate,
)
from .error import TrainingError
from .options import TrainOptions
from .processes.sharding import make_sharded, shard_when_ready, synchronizes_norms
from .saving import RunCheckpointIO


def make_trainer(
    options: TrainOptions, plan: BatchPlan, epochs: int, run: RunFolder, task: Task, loggers: list[Logger]
) -> tuple[Trainer, GracefulStop, RunCheckpoints]:
    """Build the trainer of a run.

    Args:
        options: Options of the run, complete.
        plan: Plan by which the batch is shared out.
        epochs: Number of epochs.
        run: Folder of the run.
        task: Task that will be trained; with the strategy fsdp its network is sharded when the processes have met.
        loggers: Loggers of the trackers.

    Returns:
        The trainer, and the two of its callbacks that know how the run went.

    Raises:
        TrainingError: Lightning has no such accelerator or devices.
    """
    on_terminal = sys.stderr.isatty()
    stop = GracefulStop(run.last)
    checkpoints = RunCheckpoints(run, task.monitor, options.save_minutes)
    metrics = MetricsFile(run, task.columns)
    callbacks: list[Callback] = [
        StepSeed(options.seed),
        LastEpochValidated(),
        FiniteSteps(options.skip_nan, run.last),
        EpochSoFar(),
        metrics,
        TrackedRate(metrics),
    ]
    if options.pictures:
        callbacks.append(Curves(run.path / "curves.png", metrics))
    callbacks.append(RichProgressBar(leave=True) if on_terminal else EpochLines(task.monitor, task.monitor_name))
    if options.ema:
        callbacks.append(EMAWeightAveraging(decay=options.ema))
    callbacks += [stop, checkpoints]  # after the average has been updated
    sharded, synchronized = options.strategy == "fsdp", synchronizes_norms(options)
    strategy = make_sharded(options) if sharded else "auto"
    if sharded:
        shard_when_ready(task, sync_batchnorm=synchronized)
    try:
        trainer = Trainer(
            accelerator=options.accelerator,
            strategy=strategy,
            devices=options.devices or 1,
            num_nodes=options.nodes or 1,
            precision="32" if sharded and options.precision == "64-true" else options.precision,
            max_epochs=epochs,
            check_val_every_n_epoch=options.val_every,
            accumulate_grad_batches=plan.accumulate,
            gradient_clip_val=options.clip_grad or None,
            callbacks=callbacks,
            plugins=[RunCheckpointIO(run)],
            logger=loggers,
            log_every_n_steps=10,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data modules share out their own images
            sync_batchnorm=synchronized and not sharded,
            default_root_dir=run.path,
        )
    except (ValueError, RuntimeError) as error:  # Lightning's messages about accelerators and devices
        raise TrainingError(str(error)) from error
    return trainer, stop, checkpoints


def epochs_of(options: TrainOptions, data: DataModule, plan: BatchPlan) -> int:
    """Count the epochs of a run, whose length may be given in optimiser steps."""
    if not options.steps:
        return options.epochs or 1
    images = plan.images * plan.accumulate
    per_epoch = max(1, data.batches_per_epoch * plan.images // images // (plan.devices * plan.nodes))
    return math.ceil(options.steps / per_epoch)
