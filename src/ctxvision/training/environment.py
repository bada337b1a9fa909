"""``environment.json``: on what and from what a run was started, and every time that it was resumed."""

import dataclasses
import datetime
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import Trainer

from ctxvision._version import __version__
from ctxvision.files import keep_aside, write_whole
from ctxvision.foreign import json_text
from ctxvision.ops import backends
from ctxvision.runs import RunFolder

_SECONDS = 5.0  # for all questions together
_DIFF_BYTES = 1 << 20
# no program that the repository configures is run, no lock taken, no question asked
_GIT = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "pillow")


class Environment:
    """What surrounds a run; environment variables are never recorded.

    Made before the run folder, which would else count as a file that git does not know.
    """

    def __init__(self) -> None:
        self.started = datetime.datetime.now(datetime.timezone.utc)
        self.git: GitState | None = read_git_state(Path.cwd())

    def write(self, run: RunFolder, trainer: Trainer, resumed: Path | None, settings: Mapping[str, Any]) -> None:
        """Add an entry to the file in a run folder, with the difference to the last commit; write ``config.yaml``.

        Where ``environment.json`` cannot be written this is said: a run must not end for it.

        Args:
            run: Folder of the run.
            trainer: Trainer of the run, which knows the devices.
            resumed: Checkpoint that the run continues from, if any.
            settings: Options of the run; from ``environment.json`` they come back if ``config.yaml`` is lost.

        Raises:
            OSError: ``config.yaml`` cannot be written.
        """
        try:
            self._write(run, trainer, resumed, settings)
        except OSError as error:
            log.warning(f"{error}; the training goes on without")
        write_whole(run.settings_file, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))

    def _write(self, run: RunFolder, trainer: Trainer, resumed: Path | None, settings: Mapping[str, Any]) -> None:
        machine, path = _machine(trainer), run.starts_file
        git = None
        if self.git is not None:
            git = self.git.facts | {"diff": _keep_diff(run.path, self.git.diff)}
        entries, damage = run.read_starts()
        if damage:
            log.warning(f"{path}: {damage}; a new one begins{keep_aside(path)}")
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


class GitState(NamedTuple):
    """State of a repository."""

    facts: dict[str, Any]
    """``root``, ``commit``, ``branch``, ``changed_files``, ``untracked_files``; what is not known is ``None``."""
    diff: bytes
    """From the commit to the files as they are, cut after a mebibyte; empty where nothing has changed."""


def read_git_state(folder: Path) -> GitState | None:
    """Ask git about the repository that a folder lies in.

    It never fails: where git does not answer in time, the facts are ``None``.

    Returns:
        The state of the repository; ``None`` if there is no git, or the folder is in no repository.
    """
    ends = time.monotonic() + _SECONDS
    root = _line(_ask(folder, ends, "rev-parse", "--show-toplevel"))
    if root is None:
        return None
    commit = _line(_ask(folder, ends, "rev-parse", "--verify", "--quiet", "HEAD"))
    branch = _line(_ask(folder, ends, "symbolic-ref", "--short", "--quiet", "HEAD"))
    status = _ask(folder, ends, "status", "--porcelain", "--ignore-submodules", "--no-renames")
    lines = None if status is None else status.decode(errors="replace").splitlines()
    untracked = None if lines is None else sum(line.startswith("??") for line in lines)
    facts = {
        "root": root,
        "commit": commit,
        "branch": branch,
        "changed_files": None if lines is None or untracked is None else len(lines) - untracked,
        "untracked_files": untracked,
    }
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules")
    return GitState(facts, _diff(folder, ends, *options) if commit and facts["changed_files"] != 0 else b"")


def _diff(folder: Path, ends: float, *options: str) -> bytes:
    diff = _ask(folder, ends, "diff", *options, "HEAD", limit=_DIFF_BYTES + 1) or b""
    if len(diff) <= _DIFF_BYTES:
        return diff
    return diff[: diff.rfind(b"\n", 0, _DIFF_BYTES) + 1] + b"# cut here: the rest would exceed one mebibyte\n"


def _line(answer: bytes | None) -> str | None:
    return answer.decode(errors="replace").strip() or None if answer is not None else None


def _ask(folder: Path, ends: float, *words: str, limit: int = 1 << 24) -> bytes | None:
    """Return what git prints, at most ``limit`` bytes; ``None`` if it fails or has no time left."""
    left = ends - time.monotonic()
    if left <= 0:
        return None
    try:
        process = subprocess.Popen(
            (*_GIT, *words),
            cwd=folder,
            env={**os.environ, **_QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(left, stop)
    timer.start()
    with process:
        assert process.stdout is not None
        answer = process.stdout.read(limit)
        if len(answer) == limit:
            process.kill()
            process.wait()
            timer.cancel()
            return answer
        code = process.wait()
    timer.cancel()
    return None if late.is_set() or code else answer


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
