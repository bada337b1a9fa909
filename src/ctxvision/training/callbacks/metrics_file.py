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
        run: Folder of the run, in which ``metrics.csv`` is written.
        columns: Names of the validation metrics that get a column; ``None`` takes all that the module logs.

    Attributes:
        rows: Rows so far, with the cells by column.
    """

    def __init__(self, run: RunFolder, columns: Sequence[str] | None = None) -> None:
        self.run, self.path = run, run.metrics_file
        self.columns = columns
        self.rows: list[dict[str, object]] = []
        self._began = 0.0
        self._validated = False
        self._failed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what a resumed run has written; a damaged file is kept aside."""
        self.rows = []
        if trainer.current_epoch:
            found = self.run.read_rows()
            self.rows += [dict(row) for row in found.rows if int(row["epoch"]) <= trainer.current_epoch]
            if found.damage and trainer.is_global_zero:
                log.warning(
                    f"{self.path}: {found.damage}; the training goes on from its checkpoint{keep_aside(self.path)}"
                )
        self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation metrics are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        columns = self._columns(metrics)
        measured = columns if self._validated or self.columns is None else ()
        row: dict[str, object] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            **{name: f"{metrics[name]:.6g}" for name in ("train_loss", *measured) if name in metrics},
            "seconds": f"{seconds:.2f}",
        }
        self._validated = False
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write((*_BEFORE, *columns, *_AFTER))

    def _columns(self, metrics: dict[str, float]) -> Sequence[str]:
        if self.columns is not None:
            return self.columns
        named = dict.fromkeys([*(name for row in self.rows for name in row), *metrics])
        return [name for name in named if name not in (*_BEFORE, *_AFTER)]

    def _write(self, names: Sequence[str]) -> None:
        text = csv_text([names, *([row.get(name, "") for name in names] for row in self.rows)], line_end="\r\n")
        try:
            write_whole(self.path, text)
        except OSError as error:  # a checkpoint is worth more; if the disk is full it says so itself
            if not self._failed:
                log.warning(f"{error}; the training goes on")
            self._failed = True
