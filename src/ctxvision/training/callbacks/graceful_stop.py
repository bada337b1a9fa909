"""Ctrl-C and a cluster's warnings: the run ends between two steps, with a checkpoint."""

import contextlib
import os
import signal
import threading
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

    The signals are caught while the trainer fits, or inside the block of `installed`, which is longer. Outside of
    the main thread Python lets nobody catch signals; there this callback does nothing.

    Args:
        checkpoint: Path of the checkpoint that is written.

    Attributes:
        signal_number: Number of the signal that came, to this process or another, or 0.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.signal_number = 0
        self._came: set[int] = set()
        self._caught: tuple[int, ...] = ()
        self._before: dict[int, Any] = {}
        self._in_block = False
        self._agreement = Agreement()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals inside this block."""
        self._install()
        self._in_block = True
        try:
            yield
        finally:
            self._in_block = False
            self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back to whoever had them."""
        if not self._in_block:
            self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back to whoever had them."""
        if not self._in_block:
            self._restore()

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._caught = tuple(n for n in _NUMBERS if signal.getsignal(n) is not signal.SIG_IGN)
            self._before = self._catch()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # else Lightning has already given it back
                signal.signal(number, handler)
        self._caught, self._before = (), {}

    def _catch(self) -> dict[int, Any]:
        return {number: signal.signal(number, self._note) for number in self._caught}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals from Lightning, which has just put itself in front."""
        self._take()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals from Lightning where there is no sanity check."""
        self._take()

    def _take(self) -> None:
        if self._in_block or self._before:
            self._catch()
        else:  # what is given back later are Lightning's handlers, which it then replaces by those of before
            self._install()

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
