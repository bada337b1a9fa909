"""Which version of the user's own code a run was started from."""

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

_SECONDS = 5.0  # for all questions together
_DIFF_BYTES = 1 << 20
# no program that the repository configures is run, no lock taken, no question asked
_GIT = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


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
