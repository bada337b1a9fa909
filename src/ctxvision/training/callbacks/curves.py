"""``curves.png``: the metrics of a run as a picture, while it lasts."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.files import WriteError, write_whole

from .metrics_file import MetricsFile

log = logging.getLogger(__name__)

_NOT_DRAWN = ("epoch", "step", "seconds")
_SHARE = 0.02  # of the time of a run that may be spent on drawing curves while it lasts


class Curves(Callback):
    """Draws a picture of the rows of ``metrics.csv`` after an epoch and when the run ends or stops.

    Drawing may take a fiftieth of the time: of short epochs not every one is drawn. A picture that cannot be made
    is said in a line.

    Args:
        path: Path of the picture, a PNG file.
        metrics: Callback that has the rows; it stands before this one in the trainer's list.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, path: Path, metrics: MetricsFile, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.metrics = metrics
        self._clock = clock
        self._drawn_rows = 0
        self._due = float("-inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait with the first picture until its time would be small beside the time of training."""
        self._due = self._clock() + 1 / _SHARE

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if trainer.is_global_zero and self._clock() >= self._due:
            self.draw()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all epochs."""
        if trainer.is_global_zero:
            self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the epochs of a run that was stopped."""
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt):
            self.draw()

    def draw(self) -> None:
        """Draw the rows, if some have not been drawn yet; a picture that cannot be made does not end a run."""
        rows = self.metrics.rows
        if len(rows) == self._drawn_rows:
            return
        begun = self._clock()
        self._drawn_rows = len(rows)
        try:
            from ctxvision.plots.curves import draw_curves

            names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_DRAWN)
            columns = {name: [_number(row.get(name)) for row in rows] for name in names}
            write_whole(self.path, draw_curves([int(str(row["epoch"])) for row in rows], columns))
            self._due = self._clock() + (self._clock() - begun) / _SHARE
        except Exception as error:
            why = str(error) if isinstance(error, WriteError) else f"unexpected {type(error).__name__}: {error}"
            log.warning(f"{self.path} could not be made: {why}")
            self._due = float("inf")  # what has failed is tried once more, at the end


def _number(text: object) -> float | None:
    return float(str(text)) if text not in (None, "") else None
