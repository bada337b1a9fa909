"""``metrics.csv``: one row per epoch."""

import logging
import time
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.files import keep_aside, write_whole
from ctxvision.foreign import csv_text
from ctxvision.runs import RunFolder

log = logging.getLogger(__name__)


_BEFORE, _AFTER = ("epoch", "step", "lr", "train_loss"), ("seconds",)


class MetricsFile(Callback):
    """Writes the metrics of every epoch; a resumed run keeps the rows of the epochs before.

    Lightning's CSVLogger deletes the file that it finds.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.path = run, run.metrics_file
        self.rows: list[dict[str, object]] = []
        self._began = 0.0
        self._validated = False
        self._failed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what a resumed run has written; a damaged file is kept aside."""
        if trainer.current_epoch:
            found = self.run.read_rows()
            self.rows = [row for row in found.rows if int(row["epoch"]) <= trainer.current_epoch]
            if found.damage and trainer.is_global_zero:
                log.warning(
                    f"{self.path}: {found.damage}; the training goes on from its checkpoint{keep_aside(self.path)}"
                )
        self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        measured = pl_module.columns if self._validated else ()
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            **{name: f"{metrics[name]:.6g}" for name in ("train_loss", *measured) if name in metrics},
            "seconds": f"{seconds:.2f}",
        }
        self._validated = False
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write((*_BEFORE, *pl_module.columns, *_AFTER))

    def _write(self, names: Sequence[str]) -> None:
        text = csv_text([names, *([row.get(name, "") for name in names] for row in self.rows)], line_end="\r\n")
        try:
            write_whole(self.path, text)
        except OSError as error:  # a checkpoint is worth more; if the disk is full it says so itself
            if not self._failed:
                log.warning(f"{error}; the training goes on")
            self._failed = True


class EpochLines(Callback):
    """One line per epoch, where there is no terminal for a progress bar."""

    def __init__(self) -> None:
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics."""
        if trainer.is_global_zero:
            m = {name: float(value) for name, value in trainer.callback_metrics.items()}
            log.info(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  "
                f"train loss {m.get('train_loss', 0):.4f}" + self._validation(pl_module, m)
            )

    def _validation(self, task: LightningModule, metrics: dict[str, float]) -> str:
        """Tell what was measured in this epoch."""
        if not self._validated:
            return ""
        self._validated = False
        loss = f"  val loss {metrics['val_loss']:.4f}" if "val_loss" in metrics else ""
        return f"{loss}  {task.monitor_name} {metrics[task.monitor]:.2%}"
