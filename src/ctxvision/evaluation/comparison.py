"""Several training runs beside each other: what sets them apart, how good they became, what they cost."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxvision.checkpoints import CheckpointError
from ctxvision.runs import Run, RunError, read_run
from ctxvision.tasks import load_task
from ctxvision.tasks.registry import task_class, task_named

_log = logging.getLogger(__name__)

# settings of a run that change nothing about what it learns
_BESIDE = {
    "out", "resume", "quiet", "log_every", "logger", "pictures", "workers", "prefetch", "save_minutes",
    "strict", "model", "task",
}  # fmt: skip


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison; what is not known is ``None``.

    Attributes:
        name: The path of the run as it was given.
        run: What is left of the run.
        model: The registered name of the network or backbone.
        task: The name of the task.
        metric: The words for the metric that chose the best checkpoint, such as ``"top-1"``.
        best: Its highest value, from 0 to 1.
        best_epoch: The first epoch with this value, from 1.
        parameters: The number of parameters of the network.
        seconds: The time of all epochs, validation included.
    """

    name: str
    run: Run
    model: str
    task: str
    metric: str
    best: float | None
    best_epoch: int | None
    parameters: int | None
    seconds: float | None

    @property
    def epochs(self) -> int:
        """The number of epochs that the run has finished."""
        return len(self.run.rows)


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: The runs, in the order in which they were given.
        against: The name of the run that the others are compared with, such as the plain network; empty for none.
        settings: The values of each setting that is not the same in all runs, in the order of the runs.
    """

    runs: tuple[ComparedRun, ...]
    against: str
    settings: dict[str, tuple[Any, ...]]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each run: plain numbers and texts, the same columns in all rows.

        ``best`` and ``difference`` are in percent; a difference to a run of another task has no meaning and is
        ``None``.
        """
        base = next((run for run in self.runs if run.name == self.against), None)
        rows = []
        for place, run in enumerate(self.runs):
            row: dict[str, Any] = {"run": run.name, "model": run.model}
            row |= {name: _shown(values[place]) for name, values in self.settings.items()}
            row |= {"metric": run.metric, "best": None if run.best is None else round(100 * run.best, 2)}
            if base is not None:
                alike = (run.task, run.metric) == (base.task, base.metric)
                known = alike and run.best is not None and base.best is not None
                row["difference"] = round(100 * ((run.best or 0.0) - (base.best or 0.0)), 2) if known else None
            row |= {
                "best_epoch": run.best_epoch,
                "epochs": run.epochs,
                "parameters_m": None if run.parameters is None else round(run.parameters / 1e6, 3),
                "minutes": None if run.seconds is None else round(run.seconds / 60, 2),
            }
            rows.append(row)
        return rows

    def notes(self) -> list[str]:
        """Say what makes the numbers no fair comparison, in a line each."""
        told = []
        if len({run.task for run in self.runs}) > 1:
            told.append("the runs are of several tasks, whose metrics cannot be compared")
        for name, why in (
            ("data", "of different data"),
            ("val_fraction", "validated on different shares of the data"),
            ("split_seed", "validated on different parts of the data"),
        ):
            if name in self.settings:
                told.append(f"the runs are {why}")
        lengths = {run.epochs for run in self.runs}
        if len(lengths) > 1 and "epochs" not in self.settings:
            told.append(f"the runs have {min(lengths)} to {max(lengths)} epochs; some may not have finished")
        return told


def compare_runs(
    paths: Sequence[str | os.PathLike[str]], *, against: str | os.PathLike[str] | None = None
) -> Comparison:
    """Read runs and put them beside each other.

    Args:
        paths: The paths of run folders of ``ctxvision train``, of any tasks.
        against: The path of one more run, which the others are compared with and which comes first, such as that
            of the plain network under the same settings; it may be among the paths.

    Raises:
        RunError: There is no such run, or there are none.

    Examples:
        ::

            table = compare_runs(["runs/contextual", "runs/plain"], against="runs/plain")
            best = {row["run"]: row["difference"] for row in table.rows()}
    """
    first = [os.fspath(against)] if against is not None else []
    names = list(dict.fromkeys([*first, *(os.fspath(path) for path in paths)]))
    if not names:
        raise RunError("there is no run to compare; name run folders of `ctxvision train`")
    runs = tuple(_read(name) for name in names)
    keys = dict.fromkeys(key for run in runs for key in run.run.settings if key not in _BESIDE)
    values = {key: tuple(run.run.settings.get(key) for run in runs) for key in keys}
    differing = {key: row for key, row in values.items() if any(_shown(value) != _shown(row[0]) for value in row)}
    return Comparison(runs, first[0] if first else "", differing)


def _read(name: str) -> ComparedRun:
    run = read_run(name)
    settings = run.settings
    model, task, parameters = settings.get("model"), settings.get("task"), None
    try:
        trained = load_task(run.checkpoint)
        model, task = trained.model_name, trained.kind
        parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    except CheckpointError as error:  # the curve is worth showing without it
        _log.warning("%s", error)
    try:
        kind = task_class(task_named(str(task or "classification")))
    except ValueError as error:
        raise RunError(f"{name}: {error}") from error
    values = [(row.get(kind.monitor), int(row["epoch"] or 0)) for row in run.rows]
    measured = [(value, number) for value, number in values if value is not None]
    best, epoch = max(measured, key=lambda pair: (pair[0], -pair[1]), default=(None, None))
    seconds = [value for row in run.rows if (value := row.get("seconds")) is not None]
    return ComparedRun(
        name, run, str(model or Path(name).name), kind.kind, kind.monitor_name, best, epoch, parameters,
        sum(seconds) if seconds else None,
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """Return a setting as a number or a text; whole numbers in several spellings are one."""
    if value is None or isinstance(value, bool):
        return value if value is None else str(value).lower()
    if isinstance(value, int | float):
        return int(value) if math.isfinite(value) and value == int(value) else value
    return value if isinstance(value, str) else str(value)
