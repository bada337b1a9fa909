"""A training run as `ctxvision train` left it: checkpoint, settings, one row of metrics per epoch."""

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxvision.checkpoints.run_folder import BEST
from ctxvision.tasks.run_folder import read_settings

from .error import ReportError

_RECALL = "val_recall_"


@dataclass(frozen=True)
class Epoch:
    """A row of ``metrics.csv``; what was not measured is ``None``.

    Attributes:
        epoch: from 1.
        seconds: it took, validation included.
        recalls: of contextual networks, share of the validation images whose true class is in the class set of
            each stage, by stage number; empty where no run has measured it.
        temperature: τ, likewise.
    """

    epoch: int
    train_loss: float | None
    val_loss: float | None
    val_top1: float | None
    seconds: float | None
    recalls: dict[str, float] = field(default_factory=dict)
    temperature: float | None = None


@dataclass(frozen=True)
class Run:
    """What is left of a training run.

    Attributes:
        checkpoint: the file.
        epochs: empty for a checkpoint that has been taken out of its run folder.
        settings: of ``config.yaml``, likewise.
    """

    checkpoint: Path
    epochs: tuple[Epoch, ...]
    settings: dict[str, Any]


def read_run(path: str | os.PathLike[str]) -> Run:
    """Find what belongs to a run folder, or to a checkpoint, which need not lie in one.

    Raises:
        ReportError: no such run, or its files are damaged.
    """
    path = Path(path)
    if not path.exists():
        raise ReportError(f"{path}: no such run folder or checkpoint")
    if path.is_file():
        folder = path.resolve().parent.parent
        if not (folder / "metrics.csv").is_file():
            return Run(path, (), {})
        return Run(path, _metrics(folder / "metrics.csv"), read_settings(folder, ReportError))
    checkpoint = path / BEST
    for file in (path / "metrics.csv", checkpoint):
        if not file.is_file():
            lacks = file.relative_to(path).as_posix()
            raise ReportError(f"{path}: not a run folder of `ctxvision train` (it has no {lacks})")
    return Run(checkpoint, _metrics(path / "metrics.csv"), read_settings(path, ReportError))


def _metrics(path: Path) -> tuple[Epoch, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            epochs = tuple(_epoch(row) for row in csv.DictReader(file))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ReportError(f"{path}: not the metrics of a run ({error})") from error
    if not epochs:
        raise ReportError(f"{path}: no epoch has ended yet")
    return epochs


def _epoch(row: dict[str, str]) -> Epoch:
    columns = ("train_loss", "val_loss", "val_top1", "seconds")
    measured = (float(row[name]) if row.get(name) else None for name in columns)
    recalls = {name.removeprefix(_RECALL): float(row[name]) for name in row if _is_recall(name) and row[name]}
    temperature = float(row["temperature"]) if row.get("temperature") else None
    return Epoch(int(row["epoch"]), *measured, recalls, temperature)


def _is_recall(name: object) -> bool:
    return isinstance(name, str) and name.startswith(_RECALL)
