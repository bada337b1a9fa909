"""The progress bar of a training on a terminal."""

import math
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class RunProgressBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1 as the log does, and the time that is left for the run."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._began: tuple[float, int] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure from here; epochs of before an interruption were not trained now."""
        super().on_train_start(trainer, pl_module)
        self._began = time.monotonic(), trainer.current_epoch

    def _get_train_description(self, current_epoch: int) -> str:
        # as wide as the other bar's, so that they do not jump
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}".ljust(len(self.validation_description))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar: the time left, and the module's metrics."""
        metrics: dict[str, Any] = {**super().get_metrics(trainer, pl_module)}
        metrics.pop("v_num", None)
        if not self._began or not trainer.max_epochs or not math.isfinite(trainer.num_training_batches):
            return metrics
        epochs = trainer.current_epoch + (trainer.fit_loop.batch_idx + 1) / max(
            1, int(trainer.num_training_batches)
        )
        began, before = self._began
        if (done := epochs - before) > 0:
            left = (time.monotonic() - began) / done * (trainer.max_epochs - epochs)
            metrics = {"left": f"{timedelta(seconds=max(0, round(left)))}", **metrics}
        return metrics
