"""One run at a time in a run folder."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ctxvision.runs import RunFolder
from ctxvision.training.error import TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def held(folder: Path, run: str = "") -> Iterator[None]:
    """Hold a run folder while this block lasts; the system lets go of it however the process ends.

    The lock is of the process (POSIX), so that its workers do not inherit it, and holds over NFS. Where the
    system or the file system has no such locks there is none.

    Args:
        folder: exists.
        run: to be remembered there.

    Raises:
        TrainingError: another process holds it.
    """
    try:
        file = RunFolder(folder).lock_file.open("a+")
    except OSError:  # whoever cannot write here will fail at the first file, with a reason
        yield
        return
    with file:
        if fcntl is not None and not _locked(file.fileno()):
            holder = RunFolder(folder).read_lock()
            who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= set(holder) else "a process"
            raise TrainingError(f"{folder}: {who} is training there; wait for its end, or choose another --out")
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "run": run}, file)
        file.flush()
        yield


def _locked(handle: int) -> bool:
    """Lock a file without waiting; only a lock that somebody else holds is a refusal."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True
