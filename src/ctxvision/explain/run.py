"""A training run as `ctxvision train` left it: checkpoint, settings, one row of metrics per epoch."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxvision.checkpoints.run_folder import BEST
from ctxvision.tasks.run_folder import read_metrics, read_settings

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
        epochs: those that can be read; empty for a checkpoint that has been taken out of its run folder.
        settings: of ``config.yaml``, likewise.
        rows: of ``metrics.csv``, one for each epoch, by column.
    """

    checkpoint: Path
    epochs: tuple[Epoch, ...]
    settings: dict[str, Any]
    rows: tuple[dict[str, float | None], ...] = ()


def read_run(path: str | os.PathLike[str]) -> Run:
    """Find what belongs to a run folder, or to a checkpoint, which need not lie in one.

    Raises:
        ReportError: no such run. What is damaged beside the checkpoint is left out, with a warning.
    """
    path = Path(path)
    if not path.exists():
        raise ReportError(f"{path}: no such run folder or checkpoint")
    checkpoint = path if path.is_file() else path / BEST
    if not checkpoint.is_file():
        raise ReportError(f"{path}: not a run folder of `ctxvision train` (it has no {BEST})")
    run = path.resolve().parent.parent if path.is_file() else path
    if path.is_file() and not (run / "metrics.csv").exists():
        return Run(path, (), {})
    rows = read_metrics(run)
    return Run(checkpoint, tuple(map(_epoch, rows)), read_settings(run), tuple(rows))


def _epoch(row: dict[str, float | None]) -> Epoch:
    train_loss, val_loss, val_top1, seconds = map(row.get, ("train_loss", "val_loss", "val_top1", "seconds"))
    recalls = {
        name.removeprefix(_RECALL): value
        for name, value in row.items()
        if name.startswith(_RECALL) and value is not None
    }
    epoch = int(row["epoch"] or 0)
    return Epoch(epoch, train_loss, val_loss, val_top1, seconds, recalls, row.get("temperature"))
