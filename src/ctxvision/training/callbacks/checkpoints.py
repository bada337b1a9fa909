"""When a run saves its state, and how a signal ends it between two steps with a checkpoint."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ctxvision.runs import RunFolder
from ctxvision.tasks.checkpoint_file import copy_checkpoint
from ctxvision.training.run_folder import cannot_be_written

from .metrics import metric_before

_SECONDS = 1.0  # between two all-reduces
_MOST = 50  # optimiser steps between two all-reduces


class Agreement:
    """Takes the maximum of a value over all processes between two optimiser steps, about once a second.

    A single process is asked after every step. With several the answer costs an all-reduce, in which every rank
    must take part after the same step: the number of steps until the next one follows from the slowest rank, and
    is the same on all ranks.
    """

    def __init__(self) -> None:
        self._every = 1
        self._steps = 0
        self._asked = time.monotonic()

    def due(self, trainer: Trainer, batch_idx: int) -> bool:
        """Tell whether an all-reduce follows this batch; every rank calls this after every batch.

        Args:
            trainer: Trainer of the run.
            batch_idx: Number of the batch in its epoch, from 0.
        """
        # the last batch of an epoch is followed by validation and by a checkpoint
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return False
        self._steps += 1
        return trainer.world_size == 1 or self._steps >= self._every

    def highest(self, trainer: Trainer, value: float) -> float:
        """Return the maximum of a value over all ranks, by an all-reduce that every rank must call.

        Args:
            trainer: Trainer of the run.
            value: Value of this rank.
        """
        if trainer.world_size == 1:
            return value
        now = time.monotonic()
        answer = torch.tensor(
            [value, (now - self._asked) / max(self._steps, 1)],
            dtype=torch.float32,
            device=trainer.strategy.root_device,
        )
        highest, seconds = trainer.strategy.reduce(answer, reduce_op="max").tolist()
        self._every = int(min(max(_SECONDS / max(seconds, 1e-9), 1), _MOST))
        self._steps, self._asked = 0, now
        return float(highest)


class RunCheckpoints(Checkpoint):
    """Keeps the newest two states of a run and the best.

    Lightning's ModelCheckpoint forgets which state was best when the run folder has been moved, and would then
    replace it.

    Only a checkpoint that has a checksum is kept as ``previous.ckpt``; the trainer's plugin
    `ctxvision.training.run_folder.RunCheckpointIO` writes such checkpoints.

    The best state is written before the newest: a run that is killed between the two repeats the epoch and writes
    both.

    Where all validation batches are seen before the first step (the trainer's ``num_sanity_val_steps=-1``), the
    state of then is the first best one: what starts from trained weights and only gets worse is left as it was.

    Args:
        run: Folder of the run.
        monitor: Name of the validation metric that is highest for the best state.
        minutes: Minutes between two writes of ``last.ckpt`` within an epoch; 0 writes it at the end of epochs
            only.
        keep: Number of best states to keep; of more than one, all are there as ``epoch-NUMBER.ckpt`` too.

    Attributes:
        best_value: Highest value of the metric so far.
        best_epoch: Number of the epoch with this value, from 1; 0 before the first step.
    """

    def __init__(self, run: RunFolder, monitor: str, minutes: float = 0.0, keep: int = 1) -> None:
        self.run, self.monitor, self.keep = run, monitor, keep
        self.kept: dict[int, float] = {}  # values by epoch
        self.seconds = minutes * 60
        self.best_value = float("-inf")
        self.best_epoch = 0
        self._saved = time.monotonic()
        self._agreement = Agreement()
        self._validated = False
        self._before: float | None = None

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how good the weights are that the run starts from, if all validation batches were seen."""
        self._before = metric_before(trainer, self.monitor)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and save what the run starts from, if it was validated."""
        self._saved = time.monotonic()
        if self._before is not None:  # not earlier: a state of the sanity check would be resumed within validation
            self._save(trainer, 0, self._before)
            self._before = None

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
        self._save(trainer, trainer.current_epoch + 1, value)

    def _save(self, trainer: Trainer, epoch: int, value: float) -> None:
        """Write the state after an epoch, whose metric is NaN where there was no validation."""
        is_best = value > self.best_value
        if is_best:
            self.best_value, self.best_epoch = value, epoch
        dropped = self._rank(epoch, value)
        trainer.save_checkpoint(self.run.best if is_best else self.run.last)
        if is_best and trainer.is_global_zero:
            try:
                copy_checkpoint(self.run.best, self.run.last, self.run.previous)
            except OSError as error:
                raise cannot_be_written(self.run, self.run.last, error) from error
        if trainer.is_global_zero and epoch in self.kept:
            try:
                copy_checkpoint(self.run.last, self._path(epoch))
                for other in dropped:
                    self._path(other).unlink(missing_ok=True)
            except OSError as error:
                raise cannot_be_written(self.run, self._path(epoch), error) from error
        self._saved = time.monotonic()

    def _rank(self, epoch: int, value: float) -> list[int]:
        """Count a validation, if several states are kept, and return the epochs whose states are no longer."""
        if self.keep == 1 or value != value:
            return []
        self.kept[epoch] = value
        ranked = sorted(self.kept, key=lambda epoch: (-self.kept[epoch], epoch))
        for dropped in ranked[self.keep :]:
            del self.kept[dropped]
        return ranked[self.keep :]

    def _path(self, epoch: int) -> Path:
        return self.run.checkpoints / f"epoch-{epoch}.ckpt"

    def _is_time(self, trainer: Trainer) -> bool:
        late = time.monotonic() - self._saved >= self.seconds
        # clocks differ: the first process decides
        return self._agreement.highest(trainer, float(late and trainer.is_global_zero)) > 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this callback for a checkpoint."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "kept": dict(self.kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of this callback from a checkpoint."""
        # version 0.1 knew no other metric
        value = state_dict["best_value"] if "best_value" in state_dict else state_dict["best_top1"]
        self.best_value, self.best_epoch = value, state_dict["best_epoch"]
        self.kept = dict(state_dict.get("kept", {}))


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
