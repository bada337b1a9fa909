"""Where the numbers of a run go beside ``metrics.csv``: TensorBoard, Weights & Biases, trackio."""

import importlib.util
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.files import keep_aside, write_whole
from ctxvision.foreign import file_name
from ctxvision.runs import RunFolder
from ctxvision.training.error import OptionError, TrainingError

from .callbacks.metrics_file import MetricsFile
from .trackio_logger import TrackioLogger

log = logging.getLogger(__name__)

_PROJECT = "ctxvision"
_EVERY = 10  # optimiser steps between two points of the learning rate


class Trackers:
    """The loggers of a run, and under which names its trackers know it.

    Args:
        names: of ``csv`` (nothing beside ``metrics.csv``), ``tensorboard``, ``wandb``, ``trackio``; ``None`` is
            TensorBoard where it is installed.
        folder: of the run; a run that was tracked before continues under the same id.
        settings: that the trackers show.

    Attributes:
        loggers: for Lightning.

    Raises:
        TrainingError: a package is missing.
    """

    def __init__(self, names: Sequence[str] | None, folder: Path, settings: Mapping[str, Any]) -> None:
        if names is None:
            names = ["tensorboard"] if _installed("tensorboard") else []
        names = [name for name in dict.fromkeys(names) if name != "csv"]
        for name in names:
            if not _installed(name):
                raise OptionError(f"--logger {name} needs another package: pip install {name}")
        self._file = RunFolder(folder).trackers_file
        self._ids, damage = RunFolder(folder).read_trackers()
        if damage and not rank_zero_only.rank:
            log.warning(f"{self._file}: {damage}; the trackers begin new runs{keep_aside(self._file)}")
        for name in names:
            if name != "tensorboard":
                self._ids.setdefault(
                    name, f"{file_name(folder.resolve().name).replace(',', '-')}-{secrets.token_hex(4)}"
                )
        self.loggers: list[Logger] = [self._logger(name, folder, dict(settings)) for name in names]

    def _logger(self, name: str, folder: Path, settings: dict[str, Any]) -> Logger:
        if name == "tensorboard":
            return TensorBoardLogger(folder, name="tensorboard", version="")
        project = os.environ.get(f"{name.upper()}_PROJECT") or _PROJECT
        if name == "trackio":
            return TrackioLogger(project, self._ids[name], settings)
        label = folder.resolve().name
        return WandbLogger(name=label, save_dir=folder, id=self._ids[name], project=project, config=settings)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Begin the runs of the trackers, and end them after this block; for the first process.

        Raises:
            TrainingError: Weights & Biases cannot be reached.
        """
        if self._ids:
            write_whole(self._file, json.dumps(self._ids, indent=1) + "\n")
        code = 1
        try:
            for logger in self.loggers:
                _begin(logger)
            yield
            code = 0
        finally:
            for logger in self.loggers:
                if isinstance(logger, TrackioLogger):
                    logger.close()
                elif isinstance(logger, WandbLogger) and logger._experiment is not None:
                    logger._experiment.finish(exit_code=code)


def _begin(logger: Logger) -> None:
    if isinstance(logger, WandbLogger):
        import wandb

        try:
            _ = logger.experiment
        except wandb.errors.Error as error:
            raise TrainingError(
                f"--logger wandb: {str(error).rstrip('.')}; WANDB_MODE=offline keeps the run in its folder"
            ) from error
    elif isinstance(logger, TrackioLogger):
        _ = logger.experiment


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class TrackedRate(Callback):
    """Tells the trackers the learning rate of the next optimiser step, and how long an epoch took.

    Lightning itself sends them what the task logs.

    Args:
        metrics: the callback that measures the time, and comes first.
    """

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the rate, every few steps and at the end of the epoch."""
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if stepped and (step % _EVERY == 0 or trainer.is_last_batch):
            self._send(trainer, "lr", trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the time."""
        self._send(trainer, "seconds", float(str(self.metrics.rows[-1]["seconds"])))

    @staticmethod
    def _send(trainer: Trainer, name: str, value: float) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({name: value, "epoch": trainer.current_epoch}, step=trainer.global_step)
