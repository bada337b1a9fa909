"""The learning rate and the time of epochs, for trackers such as TensorBoard."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .metrics_file import MetricsFile


class TrackedRate(Callback):
    """Tells the trainer's loggers the learning rate of the next optimiser step, and how long an epoch took.

    Lightning itself sends them what the module logs.

    Args:
        metrics: Callback that measures the time of epochs; it stands before this one in the trainer's list.
        every: Number of optimiser steps between two points of the learning rate.
    """

    def __init__(self, metrics: MetricsFile, every: int = 10) -> None:
        self.metrics = metrics
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the learning rate, every few steps and at the end of the epoch."""
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if stepped and (step % self.every == 0 or trainer.is_last_batch):
            self._send(trainer, "lr", trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the seconds that the epoch took, validation included."""
        self._send(trainer, "seconds", float(str(self.metrics.rows[-1]["seconds"])))

    @staticmethod
    def _send(trainer: Trainer, name: str, value: float) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({name: value, "epoch": trainer.current_epoch}, step=trainer.global_step)
