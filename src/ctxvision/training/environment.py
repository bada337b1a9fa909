"""``environment.json``: on what and from what a run was started, and every time that it was resumed."""

import dataclasses
import datetime
import importlib.metadata
import logging
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from ctxvision._version import __version__
from ctxvision.files import keep_aside, write_whole
from ctxvision.foreign import json_text
from ctxvision.ops import backends
from ctxvision.runs import RunFolder

from .git_state import GitState, read_git_state

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "pillow")


class Environment:
    """What surrounds a run; environment variables are never recorded.

    Made before the run folder, which would else count as a file that git does not know.
    """

    def __init__(self) -> None:
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.git: GitState | None = read_git_state(Path.cwd())

    def write(
        self, run: RunFolder, trainer: Trainer, resumed: Path | None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Add an entry to the file in a run folder, and the difference to the last commit beside it.

        Where the file cannot be written this is said: a run must not end for it.

        Args:
            run: Folder of the run.
            trainer: Trainer of the run, which knows the devices.
            resumed: Checkpoint that the run continues from, if any.
            settings: Options of the run; from here they come back if ``config.yaml`` is lost.
        """
        try:
            self._write(run, trainer, resumed, settings or {})
        except OSError as error:
            log.warning(f"{error}; the training goes on without")

    def _write(self, run: RunFolder, trainer: Trainer, resumed: Path | None, settings: Mapping[str, Any]) -> None:
        machine, path = _machine(trainer), run.starts_file
        entries, damage = run.read_starts()
        if damage:
            log.warning(f"{path}: {damage}; a new one begins{keep_aside(path)}")
        git = None
        if self.git is not None:
            git = self.git.facts | {"diff": _keep_diff(run.path, self.git.diff)}
        entry = {
            "started": self.started.isoformat(timespec="seconds"),
            "resumed_from": None if resumed is None else resumed.name,
            "command": [_without_password(word) for word in sys.argv],
            "folder": os.getcwd(),
            "git": git,
            "python": platform.python_version(),
            "ctxvision": __version__,
            "packages": {name: _version(name) for name in _PACKAGES},
            "system": platform.platform(),
            **machine,
            "settings": {k: _without_password(v) if isinstance(v, str) else v for k, v in settings.items()},
        }
        text = json_text([*entries, entry], indent=1, ensure_ascii=False)
        write_whole(path, text + "\n")


def _machine(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "device": str(device),
        "device_name": name,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "processes": trainer.world_size,
        "cpus": os.cpu_count(),
        "cpus_available": available,
        "threads": torch.get_num_threads(),
        "operators": [dataclasses.asdict(backend) for backend in backends()],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _without_password(word: str) -> str:
    """Take ``user:password@`` and ``?token=…`` out of an address."""
    return re.sub(r"(\w://)[^/@\s]*@", r"\1", re.sub(r"(\w://[^\s?]*)\?\S*", r"\1", word))


def _keep_diff(folder: Path, diff: bytes) -> str | None:
    """Write ``git.diff``, or ``git-2.diff`` and so on where it has changed since."""
    if not diff:
        return None
    number = 1
    while (path := folder / (f"git-{number}.diff" if number > 1 else "git.diff")).is_file():
        if path.read_bytes() == diff:
            return path.name
        number += 1
    write_whole(path, diff)
    return path.name
