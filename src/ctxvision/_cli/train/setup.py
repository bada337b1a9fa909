"""What a run is made of: the data, the task and the trainer, from the settings."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.data import DigitsData, ImageData, open_data
from ctxvision.recipes import load_recipe
from ctxvision.tasks import ClassificationTask

from ..errors import UserError
from ..messages import note
from .batch_plan import BatchPlan
from .checkpoint_io import RunCheckpointIO
from .config import TrainConfig
from .epoch_so_far import EpochSoFar
from .finite_steps import FiniteSteps
from .graceful_stop import GracefulStop
from .metrics_file import EpochLines, MetricsFile
from .run_checkpoints import RunCheckpoints
from .step_seed import StepSeed

_DATA = (
    "image_size", "in_chans", "val_fraction", "split_seed", "seed", "repeats", "workers", "prefetch", "strict",
    "auto_augment", "color_jitter", "random_erasing", "crop_scale",
)  # fmt: skip
_TASK = (
    "model_args", "dropout", "drop_path_rate", "optimizer", "optimizer_args", "lr", "weight_decay", "layer_decay",
    "schedule", "schedule_args", "warmup_epochs", "warmup_factor", "min_lr", "label_smoothing", "mixup", "cutmix",
    "mixup_prob", "mixup_switch_prob", "mixup_mode", "channels_last",
)  # fmt: skip
_OF_FILES = ("auto_augment", "color_jitter", "random_erasing")


def make_data(config: TrainConfig, images_at_a_time: int) -> DigitsData | ImageData:
    """Open the data.

    Raises:
        UserError: an option that these data do not have.
        DataError: they cannot be used.
    """
    options: dict[str, Any] = {name: getattr(config, name) for name in _DATA}
    if config.data == "digits":
        recipe = load_recipe(config.recipe).settings_for(config.model or "") if config.recipe else {}
        for name in _OF_FILES:
            if options[name] and options[name] != recipe.get(name):
                raise UserError(f"--{name} is for images in files; digits have their own augmentation", 2)
        if any(options[name] for name in _OF_FILES):
            note(f"digits have their own augmentation, in place of that of the recipe {config.recipe}")
        options |= dict.fromkeys(_OF_FILES)
    return open_data(config.data, batch_size=images_at_a_time, **options)


def make_task(config: TrainConfig, data: DigitsData | ImageData) -> ClassificationTask:
    """Build the task with its network.

    Raises:
        UserError: the network cannot recompute its activations.
        TaskError: unknown names or arguments.
    """
    options = {name: getattr(config, name) for name in _TASK}
    task = ClassificationTask(config.model or "", data.spec.to_dict(), **options)
    if config.grad_checkpointing:
        try:
            task.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(f"{config.model} cannot be trained with --grad_checkpointing; leave it out") from error
    return task


def warm_start_task(task: ClassificationTask, source: str, *, partial: bool) -> None:
    """Load the weights of ``--init_from``, and say which.

    Raises:
        CheckpointError: they cannot be used.
    """
    from ctxvision.checkpoints import warm_start

    report = warm_start(task.model, source, partial=partial)
    if not rank_zero_only.rank:
        for line in str(report).splitlines():
            note(line)


def require_fit(task: ClassificationTask) -> None:
    """Classify one image of zeros, because some networks refuse small images or all sizes but one.

    Raises:
        UserError: this one does.
    """
    size = task.data_spec["input_size"]
    try:
        with torch.no_grad():
            task.eval()(torch.zeros(1, *size))
    except (RuntimeError, ValueError, AssertionError) as error:
        shape = " × ".join(map(str, size))
        raise UserError(
            f"{task.hparams['model']} does not take {shape} images; try another --image_size ({error})"
        ) from error
    finally:
        task.train()


def make_trainer(
    config: TrainConfig, plan: BatchPlan, folder: Path, stop: GracefulStop, checkpoints: RunCheckpoints
) -> Trainer:
    """Build Lightning's trainer with everything that looks after a run.

    Raises:
        UserError: Lightning has no such accelerator or devices.
    """
    on_terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [StepSeed(config.seed), FiniteSteps(config.skip_nan, checkpoints.last)]
    callbacks += [EpochSoFar(), MetricsFile(folder / "metrics.csv")]
    callbacks.append(RichProgressBar(leave=True) if on_terminal else EpochLines())
    if config.ema:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    callbacks += [stop, checkpoints]  # after the average has been updated
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    several = config.devices * config.nodes > 1
    on_gpus = several and config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,
            max_epochs=config.epochs,
            accumulate_grad_batches=plan.accumulate,
            gradient_clip_val=config.clip_grad or None,
            callbacks=callbacks,
            plugins=[RunCheckpointIO(folder)],
            logger=TensorBoardLogger(folder, name="tensorboard", version="") if has_tensorboard else False,
            log_every_n_steps=10,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data modules share out their own images
            sync_batchnorm=on_gpus and config.sync_batchnorm,
            default_root_dir=folder,
        )
    except (ValueError, RuntimeError) as error:  # Lightning's messages about accelerators and devices
        raise UserError(str(error)) from error


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


def with_image_size(config: TrainConfig, data: DigitsData | ImageData) -> TrainConfig:
    """Note the size that the data have chosen."""
    return dataclasses.replace(config, image_size=data.spec.input_size[1])
