"""Ctrl-C and a cluster's warnings: the run ends between two steps, with a checkpoint."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.training.processes.agreement import Agreement

# SLURM sends SIGTERM before it takes a node away, and SIGUSR1 is what `--signal=USR1@120` asks for; Grid Engine
# sends SIGUSR2; SIGHUP means that the terminal was closed
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_NUMBERS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class GracefulStop(Callback):
    """Lets signals end a run where its state is whole, instead of in the middle of a step.

    They are SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2; those that were ignored when the run began, as ``nohup``
    and a shell's background jobs do, stay so.

    Between two optimiser steps a checkpoint is written first; during validation the epoch is finished, whose
    checkpoint follows anyway. Ctrl-C after any signal ends the run at once, and so does a second SIGTERM. The
    others do not: a terminal that is closed sends SIGHUP more than once.

    Lightning's own handlers are put aside: that of SIGTERM breaks off a validation and talks to other processes in
    the middle of a step, that of SLURM's signal writes a checkpoint elsewhere, and goes before ours when resumed.

    Args:
        checkpoint: where to write.

    Attributes:
        signal_number: the signal that came, to this process or another, or 0.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.signal_number = 0
        self._came: set[int] = set()
        self._caught: tuple[int, ...] = ()
        self._agreement = Agreement()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals inside this block."""
        self._caught = tuple(number for number in _NUMBERS if signal.getsignal(number) is not signal.SIG_IGN)
        before = self._catch()
        try:
            yield
        finally:
            self._caught = ()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self) -> dict[int, Any]:
        return {number: signal.signal(number, self._note) for number in self._caught}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning, which has just put itself in front."""
        self._catch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise, where there is no sanity check."""
        self._catch()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came and (number == signal.SIGINT or (number == signal.SIGTERM and number in self._came)):
            raise KeyboardInterrupt
        # what the others said does not count: their signal may reach this process as well, and late
        first = not self._came
        self._came.add(number)
        if first:
            self.signal_number = number
            # not by sys.stderr, which this may have interrupted in the middle of a line
            with contextlib.suppress(OSError):
                os.write(2, b"\nctxvision: stopping after this step; Ctrl-C to stop at once\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if asked to."""
        if self._agreement.due(trainer, batch_idx) and self._wanted(trainer):
            trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, if asked to during validation."""
        if trainer.current_epoch and self._wanted(trainer):
            raise KeyboardInterrupt

    def _wanted(self, trainer: Trainer) -> bool:
        # saving is a common act: all processes stop at the same step, and end with the same code
        self.signal_number = int(self._agreement.highest(trainer, self.signal_number))
        return self.signal_number > 0
