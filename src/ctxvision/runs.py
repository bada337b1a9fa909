"""The folder of a training run: everything that is to be known about what lies in it.

What lies beside the checkpoints tells about a training; none of it is needed to use or to continue it. What is
damaged is left out, and said.
"""

import json
import logging
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .files import near_path, reason

BEST = "checkpoints/best.ckpt"
_log = logging.getLogger(__name__)
_MOST_METRICS = 1 << 26  # bytes: a million epochs
_MOST_SETTINGS = 1 << 20
_MOST_JSON = 1 << 26
_RECALL = "val_recall_"


class RunError(ValueError):
    """There is no such run, or nothing to report on; the message is one line that names the file."""


class Rows(NamedTuple):
    """The rows of ``metrics.csv`` that can be read."""

    rows: list[dict[str, str]]
    """Cells by column; each is empty or a number, and ``epoch`` is a whole one from 1."""
    left_out: int
    """How many more rows there are."""
    damage: str
    """What is wrong with the file; empty where nothing is."""


class RunFolder:
    """The folder that ``ctxvision train`` makes.

    Args:
        path: The path of the folder; neither it nor any file in it need exist.

    Attributes:
        path: The path of the folder.
        checkpoints: The folder of the checkpoints.
        best: The checkpoint of the best epoch; a run folder stands for it wherever a checkpoint is asked for.
        last: The newest checkpoint, from which a run continues.
        previous: The checkpoint before the newest.
        settings_file: The file ``config.yaml``, with the settings.
        metrics_file: The file ``metrics.csv``, with one row for each epoch.
        starts_file: The file ``environment.json``, with an entry for each start of the run.
        trackers_file: The file ``trackers.json``, with the names under which trackers know the run.
        log_file: The file ``train.log``, with what the training has said.
        lock_file: The file by which one process at a time trains in the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.best = self.path / BEST
        self.checkpoints = self.best.parent
        self.last, self.previous = self.checkpoints / "last.ckpt", self.checkpoints / "previous.ckpt"
        self.settings_file, self.metrics_file = self.path / "config.yaml", self.path / "metrics.csv"
        self.starts_file, self.trackers_file = self.path / "environment.json", self.path / "trackers.json"
        self.log_file = self.path / "train.log"
        self.lock_file = self.path / ".lock"

    @classmethod
    def around(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Return the run folder that a checkpoint lies in; any other path is taken for the folder itself.

        Links are followed where the folder above the link is no run folder.
        """
        path = Path(path)
        if not path.is_file():
            return cls(path)
        near = cls(os.path.normpath(path.parent / ".."))
        far = cls(path.resolve().parent.parent)
        return next((run for run in (near, far) if run.settings_file.exists() or run.metrics_file.exists()), near)

    def has_checkpoints(self) -> bool:
        """Tell whether there is any checkpoint, whole or not."""
        return any(self.checkpoints.glob("*.ckpt"))

    def read_rows(self) -> Rows:
        """Read what can be read of ``metrics.csv``; it never fails.

        A last line without its end is left out: its last number may lack digits.
        """
        data, damage = _read(self.metrics_file, _MOST_METRICS)
        if damage:
            return Rows([], 0, damage)
        head, *lines = data[:_MOST_METRICS].decode("utf-8-sig", "replace").split("\n")
        names = head.removesuffix("\r").split(",")
        if "epoch" not in names or len(set(names)) < len(names):
            return Rows([], sum(map(bool, lines)), "its first line does not name the columns, epoch among them")
        unfinished = lines.pop() if lines else ""
        lines = [line for line in lines if line not in ("", "\r")]
        read = [_row(names, line.removesuffix("\r").split(",")) for line in lines]
        rows = [row for row in read if row is not None]
        total = len(read) + bool(unfinished)
        if len(data) > _MOST_METRICS:
            size = f"{_MOST_METRICS >> 20} MiB"
            damage = f"is longer than {size}; what comes after the first {len(rows)} epochs is left out"
        elif len(rows) < total:
            verb = "is" if total == 1 else "are"
            damage = f"{total - len(rows)} of {total} rows cannot be read and {verb} left out"
        return Rows(rows, total - len(rows), damage)

    def read_metrics(self) -> list[dict[str, float | None]]:
        """Return the rows of ``metrics.csv``, and warn about what cannot be read.

        What was not measured, or was no finite number, is ``None``.
        """
        found = self.read_rows()
        if found.damage:
            _log.warning("%s: %s", self.metrics_file, found.damage)
        return [{name: _finite(cell) for name, cell in row.items()} for row in found.rows]

    def load_settings(self) -> tuple[dict[str, Any], str]:
        """Read ``config.yaml``: the settings, and what is wrong with the file, which then has none."""
        data, damage = _read(self.settings_file, _MOST_SETTINGS)
        if damage:
            return {}, damage
        if len(data) > _MOST_SETTINGS:
            return {}, f"is longer than {_MOST_SETTINGS >> 20} MiB"
        try:
            settings = plain_yaml(data)
        except ValueError:
            return {}, "not YAML, or not all of it"
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            return {}, "not the settings of a run"
        return settings, ""

    def noted_settings(self) -> dict[str, Any] | None:
        """Return the settings that the last start noted in ``environment.json``; ``None`` where there are none."""
        starts, _ = self.read_starts()
        found = starts[-1].get("settings") if starts and isinstance(starts[-1], dict) else None
        return found if isinstance(found, dict) and found else None

    def read_settings(self) -> dict[str, Any]:
        """Return the settings of the training; values are what JSON has.

        They stand in ``config.yaml``. Where it is damaged or gone, those noted in ``environment.json`` take their
        place; if there are none either, a damaged file is warned about and nothing is returned.
        """
        settings, damage = self.load_settings()
        if damage and (noted := self.noted_settings()):
            _log.warning("%s: %s; the settings are taken from environment.json", self.settings_file, damage)
            settings = noted
        elif damage and self.settings_file.exists():
            _log.warning("%s: %s; the settings of the training are not known", self.settings_file, damage)
        return {name: _plain(value) for name, value in settings.items()}

    def read_starts(self) -> tuple[list[Any], str]:
        """Return the entries of ``environment.json``, and what is wrong with the file, which then has none."""
        found, damage = _read_json(self.starts_file)
        return (found, damage) if isinstance(found, list) else ([], damage or "not a list of starts")

    def read_trackers(self) -> tuple[dict[str, str], str]:
        """Return the entries of ``trackers.json``, and what is wrong with the file, which then has none."""
        found, damage = _read_json(self.trackers_file)
        if found == [] or (isinstance(found, dict) and all(isinstance(value, str) for value in found.values())):
            return dict(found), damage
        return {}, damage or "not the names of runs"

    def read_lock(self) -> dict[str, Any]:
        """Return what the process that holds or held the folder noted about itself: nothing if it is unknown."""
        found, _ = _read_json(self.lock_file)
        return found if isinstance(found, dict) else {}


def checkpoint_of(path: str | os.PathLike[str]) -> str:
    """Return the best checkpoint of a run folder, and any other path or name as it is."""
    best = RunFolder(path).best
    return str(best) if best.is_file() else os.fspath(path)


@dataclass(frozen=True)
class Epoch:
    """A row of ``metrics.csv``; what was not measured is ``None``.

    Attributes:
        epoch: The number of the epoch, from 1.
        seconds: The time that the epoch took, validation included.
        recalls: The share of the validation images whose true class is in the class set of each stage of a
            contextual network, by stage number; empty where no run has measured it.
        temperature: The temperature τ of a contextual network.
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
        path: The path of the run folder, or of a checkpoint that has been taken out of its run folder.
        checkpoint: The path of the checkpoint that the run stands for.
        epochs: The epochs that can be read; empty for a checkpoint that has been taken out of its run folder.
        settings: The settings of the training; empty for a checkpoint that has been taken out of its run folder.
        rows: The rows of ``metrics.csv``, one for each epoch, by column.
    """

    checkpoint: Path
    epochs: tuple[Epoch, ...]
    settings: dict[str, Any]
    rows: tuple[dict[str, float | None], ...] = ()
    path: Path = Path()

    @property
    def folder(self) -> RunFolder:
        """The run folder with the names of all its files, such as ``folder.last`` and ``folder.metrics_file``."""
        return RunFolder.around(self.path)


def read_run(path: str | os.PathLike[str]) -> Run:
    """Find what belongs to a run folder, or to a checkpoint, which need not lie in one.

    Raises:
        RunError: There is no such run. What is damaged beside the checkpoint is left out, with a warning.
    """
    path = Path(path)
    if not path.exists():
        raise RunError(f"{path}: no such run folder or checkpoint{near_path(path)}")
    run = RunFolder.around(path)
    checkpoint = path if path.is_file() else run.best
    if not checkpoint.is_file():
        raise RunError(f"{path}: not a run folder of `ctxvision train` (it has no {BEST})")
    if path.is_file() and not run.metrics_file.exists():
        return Run(path, (), {}, path=path)
    rows = run.read_metrics()
    return Run(checkpoint, tuple(map(_epoch, rows)), run.read_settings(), tuple(rows), path=run.path)


def _epoch(row: dict[str, float | None]) -> Epoch:
    train_loss, val_loss, val_top1, seconds = map(row.get, ("train_loss", "val_loss", "val_top1", "seconds"))
    recalls = {
        name.removeprefix(_RECALL): value
        for name, value in row.items()
        if name.startswith(_RECALL) and value is not None
    }
    epoch = int(row["epoch"] or 0)
    return Epoch(epoch, train_loss, val_loss, val_top1, seconds, recalls, row.get("temperature"))


def _read(path: Path, most: int) -> tuple[bytes, str]:
    """Return the first ``most`` bytes of a file and one more, if there are, and why it cannot be read."""
    if not path.is_file():
        return b"", "is not a file" if path.exists() else "is missing"
    try:
        with path.open("rb") as file:
            return file.read(most + 1), ""
    except OSError as error:
        return b"", f"cannot be read ({reason(error)})"


def _read_json(path: Path) -> tuple[Any, str]:
    """Return what a JSON file holds, and what is wrong with it; ``[]`` where it is damaged or missing."""
    if not path.exists():
        return [], ""
    data, damage = _read(path, _MOST_JSON)
    if damage or len(data) > _MOST_JSON:
        return [], damage or f"is longer than {_MOST_JSON >> 20} MiB"
    try:
        return json.loads(data), ""
    except (ValueError, RecursionError):
        return [], "not JSON, or not all of it"


def _row(names: list[str], cells: list[str]) -> dict[str, str] | None:
    row = dict(zip(names, cells, strict=False))
    whole = len(cells) <= len(names) and re.fullmatch("[1-9][0-9]{0,8}", row.get("epoch", ""))
    return row if whole and all(not cell or _number(cell) is not None for cell in cells) else None


def _number(text: str) -> float | None:
    """Return the number that a text is; NaN and infinity are some."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _finite(cell: str) -> float | None:
    value = _number(cell)
    return value if value is not None and math.isfinite(value) else None


def plain_yaml(data: bytes) -> Any:
    """Read YAML that need not be trusted.

    Raises:
        ValueError: The text is not YAML, or has references, which no run writes: a few lines of them stand for
            gigabytes.
    """
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, yaml.SafeLoader)):
            raise ValueError("a reference")
        return yaml.safe_load(data)
    # a constructor of PyYAML may fail on any value, such as the date 2024-13-45
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("not YAML") from error


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
