"""``last.ckpt`` after every epoch and every few minutes, ``previous.ckpt`` before it, and ``best.ckpt``."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ctxvision.runs import RunFolder
from ctxvision.tasks.checkpoint_file import copy_checkpoint
from ctxvision.training.processes.agreement import Agreement
from ctxvision.training.saving import cannot_be_written


class RunCheckpoints(Checkpoint):
    """Keeps the newest two states of a run and the best.

    Lightning's ModelCheckpoint forgets which state was best when the run folder has been moved, and would then
    replace it.

    Only a checkpoint that has a checksum is kept as ``previous.ckpt``; the trainer's plugin
    `ctxvision.training.saving.RunCheckpointIO` writes such checkpoints.

    The best state is written before the newest: a run that is killed between the two repeats the epoch and writes
    both.

    Args:
        run: Folder of the run.
        monitor: Name of the validation metric that is highest for the best state.
        minutes: Minutes between two writes of ``last.ckpt`` within an epoch; 0 writes it at the end of epochs
            only.

    Attributes:
        best_value: Highest value of the metric so far.
        best_epoch: Number of the epoch with this value, from 1; 0 before the first validation.
    """

    def __init__(self, run: RunFolder, monitor: str, minutes: float = 0.0) -> None:
        self.run, self.monitor = run, monitor
        self.seconds = minutes * 60
        self.best_value = float("-inf")
        self.best_epoch = 0
        self._saved = time.monotonic()
        self._agreement = Agreement()
        self._validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, between two optimiser steps."""
        if self.seconds and self._agreement.due(trainer, batch_idx) and self._is_time(trainer):
            trainer.save_checkpoint(self.run.last)
            self._saved = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after all other callbacks and after the module's own hook."""
        validated, self._validated = self._validated, False
        value = float(trainer.callback_metrics[self.monitor]) if validated else float("nan")
        is_best = value > self.best_value
        if is_best:
            self.best_value, self.best_epoch = value, trainer.current_epoch + 1
        trainer.save_checkpoint(self.run.best if is_best else self.run.last)
        if is_best and trainer.is_global_zero:
            try:
                copy_checkpoint(self.run.best, self.run.last, self.run.previous)
            except OSError as error:
                raise cannot_be_written(self.run, self.run.last, error) from error
        self._saved = time.monotonic()

    def _is_time(self, trainer: Trainer) -> bool:
        late = time.monotonic() - self._saved >= self.seconds
        # clocks differ: the first process decides
        return self._agreement.highest(trainer, float(late and trainer.is_global_zero)) > 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this callback for a checkpoint."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of this callback from a checkpoint."""
        # version 0.1 knew no other metric
        value = state_dict["best_value"] if "best_value" in state_dict else state_dict["best_top1"]
        self.best_value, self.best_epoch = value, state_dict["best_epoch"]
