"""``last.ckpt`` after every epoch and every few minutes, ``previous.ckpt`` before it, and ``best.ckpt``."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ctxvision.tasks.checkpoint_file import copy_checkpoint

from .agreement import Agreement
from .checkpoint_io import BEST, LAST, PREVIOUS, cannot_be_written


class RunCheckpoints(Checkpoint):
    """Keeps the newest two states of a run and the most accurate.

    Lightning's ModelCheckpoint forgets which was best when the run folder has been moved, and would then
    replace it.

    The best is written before the newest: a run that is killed between the two repeats the epoch and writes both.

    Args:
        folder: where ``last.ckpt``, ``previous.ckpt`` and ``best.ckpt`` go.
        minutes: how often ``last.ckpt`` is written within an epoch; 0 is never.

    Attributes:
        best_top1: highest ``val_top1``, or -1.
        best_epoch: its epoch, from 1.
    """

    def __init__(self, folder: Path, minutes: float = 0.0) -> None:
        self.last = folder / LAST
        self.best = folder / BEST
        self.seconds = minutes * 60
        self.best_top1 = -1.0
        self.best_epoch = 0
        self._saved = time.monotonic()
        self._agreement = Agreement()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, where a step is whole."""
        if self.seconds and self._agreement.due(trainer, batch_idx) and self._is_time(trainer):
            trainer.save_checkpoint(self.last)
            self._saved = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after all other callbacks and after the task's own check of the loss."""
        top1 = float(trainer.callback_metrics["val_top1"])
        is_best = top1 > self.best_top1
        if is_best:
            self.best_top1, self.best_epoch = top1, trainer.current_epoch + 1
        trainer.save_checkpoint(self.best if is_best else self.last)
        if is_best and trainer.is_global_zero:
            try:
                copy_checkpoint(self.best, self.last, self.last.with_name(PREVIOUS))
            except OSError as error:
                raise cannot_be_written(self.last, error) from error
        self._saved = time.monotonic()

    def _is_time(self, trainer: Trainer) -> bool:
        late = time.monotonic() - self._saved >= self.seconds
        # clocks differ: the first process decides
        return self._agreement.highest(trainer, float(late and trainer.is_global_zero)) > 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of this callback."""
        return {"best_top1": self.best_top1, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember it again."""
        self.best_top1, self.best_epoch = state_dict["best_top1"], state_dict["best_epoch"]
