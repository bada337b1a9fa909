"""``last.ckpt`` after every epoch, and ``best.ckpt``."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class RunCheckpoints(Checkpoint):
    """Keeps the newest and the most accurate state of a run.

    Lightning's ModelCheckpoint forgets which was best when the run folder has been moved, and would then
    replace it.

    Args:
        folder: where ``last.ckpt`` and ``best.ckpt`` go.

    Attributes:
        best_top1: highest ``val_top1``, or -1.
        best_epoch: its epoch, from 1.
    """

    def __init__(self, folder: Path) -> None:
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.best_top1 = -1.0
        self.best_epoch = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after all other callbacks and after the task's own check of the loss."""
        top1 = float(trainer.callback_metrics["val_top1"])
        is_best = top1 > self.best_top1
        if is_best:
            self.best_top1, self.best_epoch = top1, trainer.current_epoch + 1
        trainer.save_checkpoint(self.last)
        if is_best and trainer.is_global_zero:
            part = self.best.with_suffix(".part")
            shutil.copyfile(self.last, part)
            os.replace(part, self.best)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of this callback."""
        return {"best_top1": self.best_top1, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember it again."""
        self.best_top1, self.best_epoch = state_dict["best_top1"], state_dict["best_epoch"]
