"""Pictures in the run folder: curves while it runs; at its end confusion matrix and worst images."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.checkpoints import CheckpointError
from ctxvision.data import DataError, DigitsData, ImageData
from ctxvision.explain import ReportError
from ctxvision.foreign import json_text
from ctxvision.tasks import ClassificationTask, load_task

from ..errors import UserError
from ..files import write_whole
from ..messages import note
from .metrics_file import MetricsFile

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
        from ctxvision.explain.curves import draw_curves

        begun = self._clock()
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _NOT_DRAWN]
        columns = {name: [_number(row.get(name)) for row in rows] for name in names}
        _try_to_write(self.path, draw_curves([int(str(row["epoch"])) for row in rows], columns))
        self._drawn_rows = len(rows)
        self._due = self._clock() + (self._clock() - begun) / _SHARE


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
    from ctxvision.explain.confusion_figure import confusion_table, draw_confusion
    from ctxvision.explain.evaluation import make_evaluation
    from ctxvision.explain.worst_sheet import draw_worst

    folder = best.parent.parent
    data.trainer = None  # this process alone reads what all shared
    data.bad_images.update(bad)
    precision = trainer.precision_plugin
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    if str(trainer.precision).endswith("mixed"):
        autocast = precision.forward_context
    try:
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
    except KeyboardInterrupt:
        note("no pictures of the answers: interrupted; the training is complete")
        return
    except (ReportError, DataError, CheckpointError, OSError, RuntimeError) as error:
        note(f"no pictures of the answers: {' '.join(str(error).split())}; ctxvision evaluate shows them too")
        return
    import numpy as np

    numbers, names = found.numbers, task.data_spec["class_names"]
    confusion = np.array(numbers["confusion"])
    _try_to_write(folder / "confusion.csv", confusion_table(confusion, names))
    _try_to_write(folder / "confusion.png", draw_confusion(confusion, names))
    worst = json_text(numbers["worst"], indent=1, ensure_ascii=False)
    _try_to_write(folder / "worst.json", worst + "\n")
    _try_to_write(folder / "worst.png", draw_worst(numbers["worst"], found.pictures))


def _number(text: object) -> float | None:
    return float(str(text)) if text not in (None, "") else None


def _try_to_write(path: Path, content: str | bytes) -> None:
    try:
        write_whole(path, content)
    except UserError as error:
        note(str(error))
