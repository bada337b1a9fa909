"""A line for every epoch, where there is no terminal for a progress bar."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class EpochLines(Callback):
    """Logs one line per epoch (level INFO), with the losses and the metric that counts.

    Args:
        monitor: Name of a validation metric that the module logs, a share from 0 to 1; ``None`` leaves it out.
        monitor_name: Words for the metric in the line.
    """

    def __init__(self, monitor: str | None = None, monitor_name: str | None = None) -> None:
        self.monitor = monitor
        self.monitor_name = monitor_name or monitor
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's metrics."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if "train_loss" in metrics:
            line += f"  train loss {metrics['train_loss']:.4f}"
        if self._validated and "val_loss" in metrics:
            line += f"  val loss {metrics['val_loss']:.4f}"
        if self._validated and self.monitor in metrics:
            line += f"  {self.monitor_name} {metrics[self.monitor]:.2%}"
        self._validated = False
        if trainer.is_global_zero:
            log.info(line)
