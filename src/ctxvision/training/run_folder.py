"""Which folder a run has, which checkpoint it continues from, and that one run at a time is there."""

import contextlib
import itertools
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ctxvision.checkpoints import CheckpointError
from ctxvision.files import reason, remove_parts
from ctxvision.foreign import file_name
from ctxvision.runs import RunFolder
from ctxvision.tasks.loading import require_readable
from ctxvision.wording import plural

from .error import OptionError, TrainingError
from .options import TrainOptions
from .processes import launch as processes
from .processes.group import rank

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# processes that Lightning starts for more devices inherit the first one's choice
_VARIABLE = "CTXVISION_RUN_FOLDER"


def choose(options: TrainOptions) -> tuple[RunFolder, Path | None]:
    """Find the folder of a run; `held` makes it.

    Args:
        options: Options of the run.

    Returns:
        The run folder, and the checkpoint to resume from if there is any.

    Raises:
        TrainingError: The folder is in use, or holds nothing to resume.
    """
    if options.resume:
        return _resumed(Path(options.out or ".") if options.resume == "last" else Path(options.resume))
    first = not rank()
    if not first and _VARIABLE in os.environ:
        return RunFolder(os.environ[_VARIABLE]), None
    launch = processes.launched()
    if not options.out and (not first or (launch and launch.devices * launch.nodes > 1)):
        raise OptionError("processes that this one has not started need a common run folder: --out RUNDIR")
    if not options.out:
        return RunFolder(_numbered(options)), None
    run = RunFolder(options.out)
    if launch and run.path.is_dir() and (not first or _is_of(launch, run)):
        # the first process refuses what is not of this run, and all end
        return _begun_again(launch, run)
    if first and run.path.is_dir() and set(run.path.iterdir()) - {run.lock_file}:
        raise TrainingError(
            f"{run.path}: exists and is not empty; choose another --out, or continue with --resume {run.path}"
        )
    return run, None


@contextlib.contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Make a run folder, hold it while this block lasts, and tell the processes that this one starts about it.

    The system releases the lock however the process ends. The lock belongs to the process (POSIX), so that its
    workers do not inherit it, and it works over NFS. Where the system or the file system has no such locks, there
    is none.

    Args:
        run: Folder of the run.

    Raises:
        TrainingError: The folder cannot be made, or another process is training there.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{run.path}: cannot be made ({reason(error)})") from error
    launch = processes.launched()
    with locked(run, launch.run if launch else ""):
        for place in (run.path, run.checkpoints):
            remove_parts(place)
        os.environ[_VARIABLE] = str(run.path)
        try:
            yield
        finally:
            os.environ.pop(_VARIABLE, None)


@contextlib.contextmanager
def locked(run: RunFolder, name: str = "") -> Iterator[None]:
    """Lock a run folder while this block lasts.

    Args:
        run: Run folder, which exists.
        name: Name of the run to remember there.

    Raises:
        TrainingError: Another process holds the lock.
    """
    try:
        file = run.lock_file.open("a+")
    except OSError:  # whoever cannot write here will fail at the first file, with a reason
        yield
        return
    with file:
        if fcntl is not None and not _lock(file.fileno()):
            holder = run.read_lock()
            who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= set(holder) else "a process"
            raise TrainingError(f"{run.path}: {who} is training there; wait for its end, or choose another --out")
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "run": name}, file)
        file.flush()
        yield


def _lock(handle: int) -> bool:
    """Lock a file without waiting; only a lock that somebody else holds is a refusal."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _is_of(launch: processes.Launch, run: RunFolder) -> bool:
    return launch.repeats and run.read_lock().get("run") == launch.run


def _begun_again(launch: processes.Launch, run: RunFolder) -> tuple[RunFolder, Path | None]:
    again = f"{launch.by} has begun this run again ({plural(launch.restarts, 'restart')})"
    _say(f"{again}; continuing in {run.path}")
    return _resumed(run.path) if run.has_checkpoints() else (run, None)


def _resumed(path: Path) -> tuple[RunFolder, Path | None]:
    if path.is_file():
        _require_whole(path)
        return RunFolder.around(path), path
    run = RunFolder(path)
    found = [file for file in (run.last, run.previous) if file.is_file()]
    if not found:
        if not _never_saved(run):
            raise TrainingError(
                f"{path}: no checkpoint to resume from (no checkpoints/last.ckpt){_best_advice(run)}"
            )
        _say(f"{path}: stopped before its first checkpoint; beginning again")
        return run, None
    reasons = []
    for file in found:
        try:
            require_readable(file)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        if reasons:
            _say(f"{'; '.join(reasons)}; continuing from {file}, the one before")
        elif file == run.previous:
            _say(f"{run.last}: is gone; continuing from {file}, the one before")
        return run, file
    raise TrainingError(f"{'; '.join(reasons)}; there is no other to continue from{_best_advice(run)}")


def _require_whole(path: Path) -> None:
    try:
        require_readable(path)
    except CheckpointError as error:
        run = RunFolder.around(path).path
        raise TrainingError(f"{error}; --resume {run} looks for the newest good one") from error


def _best_advice(run: RunFolder) -> str:
    return f"; maybe go back to the best: --resume {run.best}" if run.best.is_file() else ""


def _never_saved(run: RunFolder) -> bool:
    """Tell whether a run was killed before it could save anything; its first row is written before that."""
    found = run.read_rows()
    return len(found.rows) + found.left_out <= 1 and run.settings_file.is_file() and not run.has_checkpoints()


def _say(line: str) -> None:
    if not rank():
        log.warning(line)


def _numbered(options: TrainOptions) -> Path:
    """Name the first free folder of runs/MODEL-DATA-1, -2 and so on."""
    name = file_name(f"{options.model}-{Path(options.data).resolve().name}")
    return next(folder for n in itertools.count(1) if not (folder := Path("runs") / f"{name}-{n}").exists())
