"""Lines about the steps of a training, for logs in which no bar can move."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ctxvision.progress import Due, Pace

log = logging.getLogger(__name__)


class MeanLoss:
    """The mean of the training loss since it was last asked for; it waits for the device only then."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, outputs: Any, parts: int) -> None:
        """Count the loss of a batch.

        Args:
            outputs: What Lightning hands to ``on_train_batch_end``.
            parts: The number of batches of an optimiser step, by which Lightning has divided the loss.
        """
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            loss = loss.detach().float() * parts
            self._sum = loss if self._sum is None else self._sum + loss
            self._count += 1

    def take(self) -> float | None:
        """Return the mean, and begin anew; ``None`` if there was no loss."""
        total, count = self._sum, self._count
        self._sum, self._count = None, 0
        return None if total is None else float(total) / count


class StepLines(Callback):
    """Logs a line (level INFO) after so many optimiser steps, or after thirty seconds.

    It reads ``epoch 2/10  step 1200/7810  train loss 2.3123  lr 0.01  3.2/s, 34:26 left``. The loss is the mean
    over the steps since the last line, in this process; the time left is that of the run.

    Args:
        every: Number of optimiser steps between two lines; ``None`` is a line every thirty seconds.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, every: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace, self._due, self._loss = Pace(clock), Due(every, clock), MeanLoss()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure from here; steps of before an interruption were not taken now."""
        self._pace.start(trainer.global_step)
        self._due.start(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a line, if it is time."""
        self._loss.add(outputs, trainer.accumulate_grad_batches)
        step = trainer.global_step
        if not trainer.is_global_zero or not self._due.reached(step):
            return
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        steps = math.ceil(batches) * (trainer.max_epochs or 0) if math.isfinite(batches) else None
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {step}" + (
            f"/{steps}" if steps else ""
        )
        if (loss := self._loss.take()) is not None:
            line += f"  train loss {loss:.4f}"
        line += f"  lr {trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        log.info(f"{line}  {self._pace.describe(step, steps)}".rstrip())
