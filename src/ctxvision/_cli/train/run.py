"""One training run from its settings to its summary."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.data import DigitsData, ImageFolderData
from ctxvision.tasks import ClassificationTask, load_task

from ..errors import UserError
from ..files import write_whole
from ..messages import note, plural, quieten
from . import run_folder
from .config import TrainConfig
from .graceful_stop import GracefulStop
from .metrics_file import EpochLines, MetricsFile
from .run_checkpoints import RunCheckpoints
from .step_seed import StepSeed

# What a resumed run may do differently; everything else is part of what the run is.
_MAY_CHANGE = {"data", "out", "resume", "epochs", "strict", "workers", "precision", "accelerator", "channels_last"}


def train(config: TrainConfig) -> int:
    """Train, and return the exit code: 0, or 128 + the signal that stopped the run.

    Raises:
        UserError: the run folder is in use or nothing can be resumed.
        DataError: the data cannot be used.
        TaskError: the model is unknown, or the training failed.
    """
    quieten()
    data = _data(config)
    torch.manual_seed(config.seed)
    task = _task(config, data)
    _require_fit(task)
    folder, resumed = run_folder.choose(config, rank_zero_only.rank or 0)
    if resumed:
        _require_same_settings(config, folder)
        _require_same(task, resumed)
    for line in data.notes:
        note(line)
    checkpoints = RunCheckpoints(folder / "checkpoints")
    stop = GracefulStop(checkpoints.last)
    trainer = _trainer(config, folder, stop, checkpoints)
    if trainer.is_global_zero:
        run_folder.make(folder)
        settings = dataclasses.asdict(dataclasses.replace(config, out=str(folder), resume=None))
        write_whole(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        print(
            f"{'continuing' if resumed else 'training'} {config.model} on {config.data} in {folder}",
            flush=True,
        )
    try:
        with stop.installed():
            trainer.fit(task, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (SystemExit, KeyboardInterrupt):
        if not stop.signal_number:
            raise
        _report_stop(trainer, stop, folder, data)
        return 128 + stop.signal_number
    bad = _everyone_s(data.bad_images)
    if trainer.is_global_zero:
        _report_end(trainer, checkpoints, bad)
    return 0


def _data(config: TrainConfig) -> DigitsData | ImageFolderData:
    common: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("image_size", "in_chans", "batch_size", "val_fraction", "split_seed", "seed")
    }
    if config.data == "digits":
        ignored = [n for n in ("auto_augment", "color_jitter", "random_erasing") if getattr(config, n)]
        if ignored:
            raise UserError(f"--{ignored[0]} is for folders of images; digits have their own augmentation", 2)
        return DigitsData(**common)
    return ImageFolderData(
        config.data,
        workers=config.workers or 0,
        strict=config.strict,
        auto_augment=config.auto_augment,
        color_jitter=config.color_jitter,
        random_erasing=config.random_erasing,
        **common,
    )


def _task(config: TrainConfig, data: DigitsData | ImageFolderData) -> ClassificationTask:
    return ClassificationTask(
        config.model or "",
        data.spec.to_dict(),
        model_args=config.model_args,
        drop_path_rate=config.drop_path_rate,
        optimizer=config.optimizer,
        lr=config.lr or 0.0,
        weight_decay=config.weight_decay or 0.0,
        warmup_epochs=config.warmup_epochs or 0.0,
        label_smoothing=config.label_smoothing,
        mixup=config.mixup,
        cutmix=config.cutmix,
        channels_last=config.channels_last,
    )


def _require_fit(task: ClassificationTask) -> None:
    """Classify one image of zeros, because some networks refuse small images or all sizes but one."""
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


def _trainer(config: TrainConfig, folder: Path, stop: GracefulStop, checkpoints: RunCheckpoints) -> Trainer:
    on_terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [StepSeed(config.seed), MetricsFile(folder / "metrics.csv")]
    callbacks.append(RichProgressBar(leave=True) if on_terminal else EpochLines())
    if config.ema:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    callbacks += [stop, checkpoints]  # after the average has been updated
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    on_gpus = config.devices > 1 and config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            precision=config.precision,
            max_epochs=config.epochs,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip_grad or None,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder, name="tensorboard", version="") if has_tensorboard else False,
            log_every_n_steps=10,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data modules share out their own images
            sync_batchnorm=on_gpus,
            default_root_dir=folder,
        )
    except (ValueError, RuntimeError) as error:  # Lightning's messages about accelerators and devices
        raise UserError(str(error)) from error


def _require_same_settings(config: TrainConfig, folder: Path) -> None:
    """Refuse what a checkpoint would override anyway, or what would make the run another one."""
    try:
        before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder / 'config.yaml'}: cannot be read ({error})") from error
    for name, value in dataclasses.asdict(config).items():
        if name not in _MAY_CHANGE and name in before and before[name] != value:
            raise UserError(
                f"{folder}: its {name} is {before[name]}, not {value}; a resumed run keeps its settings, "
                f"leave out --{name} or begin a new run"
            )


def _require_same(task: ClassificationTask, checkpoint: Path) -> None:
    previous = load_task(checkpoint)
    for what in ("model", "model_args"):
        if previous.hparams[what] != task.hparams[what]:
            raise UserError(f"{checkpoint}: its {what} is {previous.hparams[what]}, not {task.hparams[what]}")
    for what in ("class_names", "input_size"):
        if previous.data_spec[what] != task.data_spec[what]:
            raise UserError(f"{checkpoint}: its {what} is {previous.data_spec[what]}, not {task.data_spec[what]}")
    if previous.data_spec["fingerprint"] != task.data_spec["fingerprint"]:
        note("the images are not those that the run began with; others may be held out now")


def _everyone_s(bad: dict[str, str]) -> dict[str, str]:
    """Merge the reports of all processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return bad
    reports: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(reports, bad)
    return {path: reason for report in reports for path, reason in report.items()}


def _report_stop(trainer: Trainer, stop: GracefulStop, folder: Path, data: DigitsData | ImageFolderData) -> None:
    if not trainer.is_global_zero:
        return
    if data.bad_images:
        note(f"skipped {plural(len(data.bad_images), 'bad image')}")
    advice = (
        f"continue with: ctxvision train --resume {folder}"
        if stop.checkpoint.is_file()
        else "there was nothing to save yet"
    )
    print(f"ctxvision: stopped in epoch {trainer.current_epoch + 1}; {advice}", file=sys.stderr)


def _report_end(trainer: Trainer, checkpoints: RunCheckpoints, bad: dict[str, str]) -> None:
    if bad:
        note(f"skipped {plural(len(bad), 'bad image')}, named above")
    print(f"best top-1 {checkpoints.best_top1:.2%} in epoch {checkpoints.best_epoch} of {trainer.max_epochs}")
    print(f"checkpoint {checkpoints.best}")
