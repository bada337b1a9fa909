"""What lies beside the checkpoints of a run folder of ``ctxvision train``: settings, and metrics by epoch.

Both tell about a training; neither is needed to use or to continue it. What is damaged is left out, and said.
"""

import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_log = logging.getLogger(__name__)
_BYTES = 1 << 26  # of metrics: a million epochs
_SETTINGS_BYTES = 1 << 20


class Rows(NamedTuple):
    """Rows of ``metrics.csv``."""

    rows: list[dict[str, str]]
    """Cells by column; each is empty or a number, and ``epoch`` is a whole one from 1."""
    left_out: int
    """How many more rows there are."""
    damage: str
    """What is wrong with the file; empty where nothing is."""


def read_rows(path: Path) -> Rows:
    """Read what can be read of a ``metrics.csv``; it never fails.

    A last line without its end is left out: its last number may lack digits.
    """
    if not path.is_file():
        return Rows([], 0, "is not a file" if path.exists() else "is missing")
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES + 1)
    except OSError as error:
        return Rows([], 0, f"cannot be read ({(error.strerror or str(error)).lower()})")
    head, *lines = data[:_BYTES].decode("utf-8-sig", "replace").split("\n")
    names = head.removesuffix("\r").split(",")
    if "epoch" not in names or len(set(names)) < len(names):
        return Rows([], sum(map(bool, lines)), "its first line does not name the columns, epoch among them")
    unfinished = lines.pop() if lines else ""
    lines = [line for line in lines if line not in ("", "\r")]
    read = [_row(names, line.removesuffix("\r").split(",")) for line in lines]
    rows = [row for row in read if row is not None]
    total = len(read) + bool(unfinished)
    damage = ""
    if len(data) > _BYTES:
        damage = f"is longer than {_BYTES >> 20} MiB; what comes after the first {len(rows)} epochs is left out"
    elif len(rows) < total:
        damage = f"{total - len(rows)} of {total} rows cannot be read and {'is' if total == 1 else 'are'} left out"
    return Rows(rows, total - len(rows), damage)


def _row(names: list[str], cells: list[str]) -> dict[str, str] | None:
    row = dict(zip(names, cells, strict=False))
    whole = len(cells) <= len(names) and re.fullmatch("[1-9][0-9]{0,8}", row.get("epoch", ""))
    return row if whole and all(not cell or number(cell) is not None for cell in cells) else None


def number(text: str) -> float | None:
    """Return the number that a text is; NaN and infinity are some."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, float | None]]:
    """Return the rows of a run folder's ``metrics.csv``, and warn about what cannot be read.

    What was not measured, or was no finite number, is ``None``.
    """
    path = Path(run) / "metrics.csv"
    found = read_rows(path)
    if found.damage:
        _log.warning("%s: %s", path, found.damage)
    return [{name: _finite(cell) for name, cell in row.items()} for row in found.rows]


def _finite(cell: str) -> float | None:
    value = number(cell)
    return value if value is not None and math.isfinite(value) else None


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings that a training wrote beside its checkpoints, and warn where they cannot be read.

    Values are what JSON has; there are none where there is no such file.
    """
    path = run / "config.yaml"
    if not path.exists():
        return {}
    settings, damage = load_settings(path)
    if damage:
        _log.warning("%s: %s; the settings of the training are not known", path, damage)
    return {name: _plain(value) for name, value in settings.items()}


def load_settings(path: Path) -> tuple[dict[str, Any], str]:
    """Read a ``config.yaml``: the settings, and what is wrong with the file, which then has none."""
    if not path.is_file():
        return {}, "is not a file" if path.exists() else "is missing"
    try:
        with path.open("rb") as file:
            data = file.read(_SETTINGS_BYTES + 1)
        if len(data) > _SETTINGS_BYTES:
            return {}, f"is longer than {_SETTINGS_BYTES >> 20} MiB"
        settings = yaml.load(data, _Plain)
    except OSError as error:
        return {}, f"cannot be read ({(error.strerror or str(error)).lower()})"
    # a constructor of PyYAML may fail on any value, such as the date 2024-13-45
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, "not YAML, or not all of it"
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        return {}, "not the settings of a run"
    return settings, ""


class _Plain(yaml.SafeLoader):
    """Refuses references, which no run writes: a few lines of them stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a reference")
        return super().compose_node(parent, index)


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
