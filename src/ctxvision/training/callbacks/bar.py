"""The progress bar of a training on a terminal."""

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
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar: the module's metrics and, from the second epoch on, the time left."""
        metrics: dict[str, Any] = {**super().get_metrics(trainer, pl_module)}
        metrics.pop("v_num", None)
        if self._began and trainer.max_epochs and (done := trainer.current_epoch - self._began[1]) > 0:
            left = (time.monotonic() - self._began[0]) / done * (trainer.max_epochs - trainer.current_epoch)
            metrics["left"] = f"{timedelta(seconds=round(left))}"
        return metrics
