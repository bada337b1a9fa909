"""Ctrl-C between two steps, with a checkpoint."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_EVERY = 10  # batches between two questions to the other processes


class GracefulStop(Callback):
    """Lets SIGINT and SIGTERM end a run where its state is whole, instead of in the middle of a step.

    Between two optimiser steps a checkpoint is written first; during validation the epoch is finished, whose
    checkpoint follows anyway. A second signal ends the run at once.

    Args:
        checkpoint: where to write.

    Attributes:
        signal_number: the signal that came, or 0.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.signal_number = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals inside this block."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = number
        print("\nctxvision: stopping after this step; again to stop at once", file=sys.stderr, flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if asked to."""
        every = trainer.accumulate_grad_batches * (1 if trainer.world_size == 1 else _EVERY)
        # the last batch of an epoch is followed by validation and by a checkpoint
        if (batch_idx + 1) % every == 0 and not trainer.is_last_batch and self._wanted(trainer):
            trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, if asked to during validation."""
        if trainer.current_epoch and self._wanted(trainer):
            raise KeyboardInterrupt

    def _wanted(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return bool(self.signal_number)
        # saving is a common act: all processes must stop at the same step
        asked = torch.tensor(self.signal_number, device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(asked, reduce_op="sum").item())
