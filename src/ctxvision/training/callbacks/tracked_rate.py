"""The learning rate and the time of epochs, for trackers such as TensorBoard."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class TrackedRate(Callback):
    """Tells the trainer's loggers the learning rate of the next optimiser step, and how long an epoch took.

    Lightning itself sends them what the module logs.

    Args:
        every: number of optimiser steps between two points of the learning rate.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

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
        now = time.monotonic()
        self._send(trainer, "seconds", now - self._began)
        self._began = now

    @staticmethod
    def _send(trainer: Trainer, name: str, value: float) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({name: value, "epoch": trainer.current_epoch}, step=trainer.global_step)
