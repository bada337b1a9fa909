"""What a run tells of its epochs: ``metrics.csv``, curves, a line for each, and numbers for trackers."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.files import WriteError, keep_aside, write_whole
from ctxvision.foreign import csv_text
from ctxvision.runs import RunFolder

from .progress import MeanLoss

log = logging.getLogger(__name__)


_BEFORE, _AFTER = ("epoch", "step", "lr", "train_loss"), ("seconds",)


class MetricsFile(Callback):
    """Writes the metrics of every epoch; a resumed run keeps the rows of the epochs before.

    Lightning's CSVLogger deletes the file that it finds.

    Args:
        run: Folder of the run, in which ``metrics.csv`` is written.
        columns: Names of the validation metrics that get a column; ``None`` takes all that the module logs.

    Attributes:
        rows: Rows so far, with the cells by column.
    """

    def __init__(self, run: RunFolder, columns: Sequence[str] | None = None) -> None:
        self.run, self.path = run, run.metrics_file
        self.columns = columns
        self.rows: list[dict[str, object]] = []
        self._began = 0.0
        self._validated = False
        self._failed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what a resumed run has written; a damaged file is kept aside."""
        self.rows = []
        if trainer.current_epoch:
            found = self.run.read_rows()
            self.rows += [dict(row) for row in found.rows if int(row["epoch"]) <= trainer.current_epoch]
            if found.damage and trainer.is_global_zero:
                log.warning(
                    f"{self.path}: {found.damage}; the training goes on from its checkpoint{keep_aside(self.path)}"
                )
        self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        columns = self._columns(metrics)
        measured = columns if self._validated or self.columns is None else ()
        row: dict[str, object] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            **{name: f"{metrics[name]:.6g}" for name in ("train_loss", *measured) if name in metrics},
            "seconds": f"{seconds:.2f}",
        }
        self._validated = False
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write((*_BEFORE, *columns, *_AFTER))

    def _columns(self, metrics: dict[str, float]) -> Sequence[str]:
        if self.columns is not None:
            return self.columns
        named = dict.fromkeys([*(name for row in self.rows for name in row), *metrics])
        return [name for name in named if name not in (*_BEFORE, *_AFTER)]

    def _write(self, names: Sequence[str]) -> None:
        text = csv_text([names, *([row.get(name, "") for name in names] for row in self.rows)], line_end="\r\n")
        try:
            write_whole(self.path, text)
        except OSError as error:  # a checkpoint is worth more; if the disk is full it says so itself
            if not self._failed:
                log.warning(f"{error}; the training goes on")
            self._failed = True


_NOT_DRAWN = ("epoch", "step", "seconds")
_SHARE = 0.02  # of the time of a run that may be spent on drawing curves while it lasts


class Curves(Callback):
    """Draws a picture of the rows of ``metrics.csv`` after an epoch and when the run ends or stops.

    Drawing may take a fiftieth of the time: of short epochs not every one is drawn. A picture that cannot be made
    is said in a line.

    Args:
        path: Path of the picture, a PNG file.
        metrics: Callback that has the rows; it stands before this one in the trainer's list.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, path: Path, metrics: MetricsFile, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.metrics = metrics
        self._clock = clock
        self._drawn_rows = 0
        self._due = float("-inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait with the first picture until its time would be small beside the time of training."""
        self._due = self._clock() + 1 / _SHARE

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if trainer.is_global_zero and self._clock() >= self._due:
            self.draw()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all epochs."""
        if trainer.is_global_zero:
            self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the epochs of a run that was stopped."""
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt):
            self.draw()

    def draw(self) -> None:
        """Draw the rows, if some have not been drawn yet; a picture that cannot be made does not end a run."""
        rows = self.metrics.rows
        if len(rows) == self._drawn_rows:
            return
        begun = self._clock()
        self._drawn_rows = len(rows)
        try:
            from ctxvision.plots.curves import draw_curves

            names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_DRAWN)
            columns = {name: [float(str(row[name])) if row.get(name) else None for row in rows] for name in names}
            write_whole(self.path, draw_curves([int(str(row["epoch"])) for row in rows], columns))
            self._due = self._clock() + (self._clock() - begun) / _SHARE
        except Exception as error:
            why = str(error) if isinstance(error, WriteError) else f"unexpected {type(error).__name__}: {error}"
            log.warning(f"{self.path} could not be made: {why}")
            self._due = float("inf")  # what has failed is tried once more, at the end


def metric_before(trainer: Trainer, monitor: str | None) -> float | None:
    """Return a validation metric before the first step; ``None`` unless the sanity check saw all batches.

    Args:
        trainer: Trainer at the end of its sanity check.
        monitor: Name of the metric.
    """
    value = trainer.callback_metrics.get(monitor or "")
    return None if value is None or math.isfinite(trainer.num_sanity_val_steps) else float(value)


class EpochLines(Callback):
    """Logs one line per epoch (level INFO), with the losses and the metric that counts.

    There is one before the first step, too, if the trainer's sanity check saw all validation batches.

    Args:
        monitor: Name of a validation metric that the module logs, a share from 0 to 1; ``None`` leaves it out.
        monitor_name: Words for the metric in the line.
        logger: Logger that gets the lines; ``None`` is that of this module.
    """

    def __init__(
        self, monitor: str | None = None, monitor_name: str | None = None, logger: logging.Logger | None = None
    ) -> None:
        self.logger = logger or log
        self.monitor = monitor
        self.monitor_name = monitor_name or monitor
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how good the weights are that the run starts from."""
        value = metric_before(trainer, self.monitor)
        if value is not None and trainer.is_global_zero:
            self.logger.info(f"before the first step  {self.monitor_name} {value:.2%}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's metrics."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if "train_loss" in metrics:
            line += f"  train loss {metrics['train_loss']:.4f}"
        if self._validated and "val_loss" in metrics:
            line += f"  val loss {metrics['val_loss']:.4f}"
        if self._validated and self.monitor in metrics:
            line += f"  {self.monitor_name} {metrics[self.monitor]:.2%}"
        self._validated = False
        if trainer.is_global_zero:
            self.logger.info(line)


class TrackedRate(Callback):
    """Tells the trainer's loggers the loss, the learning rate of the next step, and how long an epoch took.

    The loss is ``train_loss_step``, the mean over the steps since the last point, in the first process. Lightning
    itself sends what the module logs.

    Args:
        metrics: Callback that measures the time of epochs; it stands before this one in the trainer's list.
        every: Number of optimiser steps between two points of the loss and the learning rate.
    """

    def __init__(self, metrics: MetricsFile, every: int = 10) -> None:
        self.metrics = metrics
        self.every = every
        self._loss = MeanLoss()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send loss and learning rate, every few steps and at the end of the epoch."""
        self._loss.add(outputs, trainer.accumulate_grad_batches)
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if stepped and (step % self.every == 0 or trainer.is_last_batch):
            self._send(trainer, lr=trainer.optimizers[0].param_groups[0]["lr"], train_loss_step=self._loss.take())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the seconds that the epoch took, validation included."""
        self._send(trainer, seconds=float(str(self.metrics.rows[-1]["seconds"])))

    @staticmethod
    def _send(trainer: Trainer, **values: float | None) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics({**known, "epoch": trainer.current_epoch}, step=trainer.global_step)
