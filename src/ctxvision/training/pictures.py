"""Pictures in the run folder: curves while it runs; at its end confusion matrix and worst images."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision._cli.keeping import Keeping
from ctxvision.data import DigitsData, ImageData
from ctxvision.files import write_whole
from ctxvision.foreign import json_text
from ctxvision.tasks import ClassificationTask, load_task

from .callbacks.metrics_file import MetricsFile

log = logging.getLogger(__name__)

_NOT_DRAWN = ("epoch", "step", "seconds")
_SHARE = 0.02  # of the time of a run that may be spent on drawing curves while it lasts


class Curves(Callback):
    """Draws ``curves.png`` from the rows of ``metrics.csv`` after an epoch and when the run ends or stops.

    Drawing may take a fiftieth of the time: of short epochs not every one is drawn.

    Args:
        path: the picture.
        metrics: the callback that has the rows, and comes first.
        clock: seconds.
    """

    def __init__(self, path: Path, metrics: MetricsFile, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.metrics = metrics
        self._clock = clock
        self._drawn_rows = 0
        self._due = float("-inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait with the first picture until it would be small beside what was computed."""
        self._due = self._clock() + 1 / _SHARE

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is time."""
        if trainer.is_global_zero and self._clock() >= self._due:
            self.draw()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all of it."""
        if trainer.is_global_zero:
            self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is of a run that was stopped."""
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt):
            self.draw()

    def draw(self) -> None:
        """Draw what has not been drawn yet; a picture that cannot be written does not end a run."""
        rows = self.metrics.rows
        if len(rows) == self._drawn_rows:
            return
        begun, drawn = self._clock(), False
        with Keeping().step(str(self.path), asked=False):
            from ctxvision.plots.curves import draw_curves

            names = [
                name for name in dict.fromkeys(name for row in rows for name in row) if name not in _NOT_DRAWN
            ]
            columns = {name: [_number(row.get(name)) for row in rows] for name in names}
            write_whole(self.path, draw_curves([int(str(row["epoch"])) for row in rows], columns))
            drawn = True
        self._drawn_rows = len(rows)
        # what has failed is tried once more, at the end
        self._due = self._clock() + (self._clock() - begun) / _SHARE if drawn else float("inf")


def draw_answers(trainer: Trainer, data: DigitsData | ImageData, best: Path, bad: Mapping[str, str]) -> None:
    """Look at the validation images once more with the best weights, and write what they are taken for.

    ``confusion.png``, ``confusion.csv``, ``worst.png`` and ``worst.json`` appear in the run folder. Whatever goes
    wrong is said in a line: the training has succeeded.

    Args:
        trainer: of the run that has ended; its process group may be gone.
        data: of the run.
        best: checkpoint.
        bad: images that no process could read.
    """
    data.trainer = None  # this process alone reads what all shared
    data.bad_images.update(bad)
    try:
        with Keeping().step("pictures of the answers (ctxvision evaluate shows them too)", asked=False):
            _draw_answers(trainer, data, best)
    except KeyboardInterrupt:
        log.warning("no pictures of the answers: interrupted; the training is complete")


def _draw_answers(trainer: Trainer, data: DigitsData | ImageData, best: Path) -> None:
    import numpy as np

    from ctxvision.evaluation.classification import make_evaluation
    from ctxvision.plots.confusion import confusion_table, draw_confusion
    from ctxvision.plots.worst_sheet import draw_worst

    precision = trainer.precision_plugin
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    if str(trainer.precision).endswith("mixed"):
        autocast = precision.forward_context
    task = load_task(best, trust=True)
    if not isinstance(task, ClassificationTask):
        return
    found = make_evaluation(
        task.to(trainer.strategy.root_device),
        data,
        checkpoint=str(best),
        data_name="validation images",
        split="val",
        precision=str(trainer.precision),
        autocast=autocast,
    )
    numbers, names = found.numbers, task.data_spec["class_names"]
    confusion = np.array(numbers["confusion"])
    made: dict[str, Callable[[], str | bytes]] = {
        "confusion.csv": lambda: confusion_table(confusion, names),
        "worst.json": lambda: json_text(numbers["worst"], indent=1, ensure_ascii=False) + "\n",
        "confusion.png": lambda: draw_confusion(confusion, names),
        "worst.png": lambda: draw_worst(numbers["worst"], found.pictures.by_place()),
    }
    for name, make in made.items():
        path = best.parent.parent / name
        with Keeping().step(str(path), asked=False):
            write_whole(path, make())


def _number(text: object) -> float | None:
    return float(str(text)) if text not in (None, "") else None
