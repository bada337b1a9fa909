"""The folder of a run: which it is, held by one run at a time, its checkpoints written whole and never lost."""

import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from ctxvision.checkpoints import CheckpointError
from ctxvision.files import reason, remove_parts
from ctxvision.foreign import file_name
from ctxvision.runs import RunFolder
from ctxvision.tasks.checkpoint_file import keep_as, require_readable, save_checkpoint
from ctxvision.wording import plural

from . import processes
from .error import OptionError, TrainingError
from .options import TrainOptions
from .processes import rank, say

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
    first = not rank()
    if options.resume:
        path = Path(options.out or ".") if options.resume == "last" else Path(options.resume)
        if first:  # the others belong to the process that holds it
            _require_free(RunFolder.around(path) if path.is_file() else RunFolder(path))
        return _resumed(path)
    if not first and _VARIABLE in os.environ:
        return RunFolder(os.environ[_VARIABLE]), None
    launch = processes.launched()
    if not options.out and (not first or (launch and launch.devices * launch.nodes > 1)):
        raise OptionError("processes that this one has not started need a common run folder: --out RUNDIR")
    if not options.out:  # the first free folder of runs/MODEL-DATA-1, -2 and so on
        name = file_name(f"{options.model}-{Path(options.data).resolve().name}")
        folders = (Path("runs") / f"{name}-{n}" for n in itertools.count(1))
        return RunFolder(next(folder for folder in folders if not folder.exists())), None
    run = RunFolder(options.out)
    if launch and run.path.is_dir() and (not first or _repeats(launch, run)):
        # the first process refuses what is not of this run, and all end
        return _begun_again(launch, run)
    if first and run.path.is_dir() and set(run.path.iterdir()) - {run.lock_file}:
        raise TrainingError(
            f"{run.path}: exists and is not empty; choose another --out, or continue with --resume {run.path}"
        )
    return run, None


def _repeats(launch: processes.Launch, run: RunFolder) -> bool:
    return launch.repeats and run.read_lock().get("run") == launch.run


def _begun_again(launch: processes.Launch, run: RunFolder) -> tuple[RunFolder, Path | None]:
    again = f"{launch.by} has begun this run again ({plural(launch.restarts, 'restart')})"
    say(f"{again}; continuing in {run.path}")
    return _resumed(run.path) if run.has_checkpoints() else (run, None)


def _resumed(path: Path) -> tuple[RunFolder, Path | None]:
    if path.is_file():
        try:
            require_readable(path)
        except CheckpointError as error:
            newest = f"--resume {RunFolder.around(path).path} looks for the newest good one"
            raise TrainingError(f"{error}; {newest}") from error
        return RunFolder.around(path), path
    run = RunFolder(path)
    found = [file for file in (run.last, run.previous) if file.is_file()]
    if not found:
        if not _never_saved(run):
            raise TrainingError(
                f"{path}: no checkpoint to resume from (no checkpoints/last.ckpt){_best_advice(run)}"
            )
        say(f"{path}: stopped before its first checkpoint; beginning again")
        return run, None
    reasons = []
    for file in found:
        try:
            require_readable(file)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        if reasons:
            say(f"{'; '.join(reasons)}; continuing from {file}, the one before")
        elif file == run.previous:
            say(f"{run.last}: is gone; continuing from {file}, the one before")
        return run, file
    raise TrainingError(f"{'; '.join(reasons)}; there is no other to continue from{_best_advice(run)}")


def _best_advice(run: RunFolder) -> str:
    return f"; maybe go back to the best: --resume {run.best}" if run.best.is_file() else ""


def _never_saved(run: RunFolder) -> bool:
    """Tell whether a run was killed before it could save anything; its first row is written before that."""
    found = run.read_rows()
    return len(found.rows) + found.left_out <= 1 and run.settings_file.is_file() and not run.has_checkpoints()


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
        raise TrainingError(f"{run.path}: cannot be made ({reason(error)}); --out names a folder") from error
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
        _require_lock(run, file.fileno())
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "run": name}, file)
        file.flush()
        yield


def _require_free(run: RunFolder) -> None:
    """Refuse a folder in which another process is training.

    What seems to be missing in such a folder may be about to be written.
    """
    with contextlib.suppress(OSError), run.lock_file.open("r+") as file:
        _require_lock(run, file.fileno())


def _require_lock(run: RunFolder, handle: int) -> None:
    if fcntl is not None and not _lock(handle):
        holder = run.read_lock()
        who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= set(holder) else "a process"
        raise TrainingError(f"{run.path}: {who} is training there; wait for its end, or choose another --out")


def _lock(handle: int) -> bool:
    """Lock a file without waiting; only a lock that somebody else holds is a refusal."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


class RunCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin that writes the checkpoints of a run with a checksum, and reads them back.

    What was ``last.ckpt`` becomes ``previous.ckpt``.

    Args:
        run: Folder of the run; it is not made anew if somebody has removed it.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint in one step.

        Args:
            checkpoint: Values of the checkpoint, as ``torch.save`` takes them.
            path: Path of the checkpoint.
            storage_options: Options of Lightning's interface, which are not used.

        Raises:
            TrainingError: The file cannot be written; the older checkpoints are as they were.
        """
        path = Path(path)
        try:
            if self.run.path.is_dir():
                path.parent.mkdir(exist_ok=True)
            save_checkpoint(checkpoint, path, self.run.previous if path.name == self.run.last.name else None)
        except OSError as error:
            raise cannot_be_written(self.run, path, error) from error


def cannot_be_written(run: RunFolder, path: Path, error: OSError) -> TrainingError:
    """Return the error that says why a checkpoint of a run could not be written, and which one is still good."""
    if not run.path.is_dir():
        return TrainingError(f"{path}: cannot be written (the run folder is gone)")
    kept = next((p for p in (run.last, run.previous, run.best) if p.is_file()), None)
    advice = f"; {kept} is as it was, continue with: ctxvision train --resume {run.path}" if kept else ""
    return TrainingError(f"{path}: cannot be written ({reason(error)}){advice}")


def set_aside(run: RunFolder, checkpoint: Path) -> None:
    """Keep the newest checkpoint and the metrics under numbered names, where a run goes back to an older one.

    The process can be killed between any two steps: until the last one the run continues as if it had not begun.

    Args:
        run: Folder of the run.
        checkpoint: Checkpoint that the run continues from; nothing happens if it is the newest.

    Raises:
        TrainingError: A file cannot be written.
    """
    last = run.last
    if checkpoint.name == last.name:
        return
    kept = [path for path in (last, run.metrics_file) if path.is_file()]
    number = next(n for n in itertools.count(1) if not any(_numbered(path, n).exists() for path in kept))
    try:
        if run.metrics_file in kept:
            with contextlib.suppress(OSError):  # a damaged one must not keep a run from going back
                shutil.copyfile(run.metrics_file, _numbered(run.metrics_file, number))
        older = [(last, _numbered(last, number))] if last in kept else []
        for source, path in [*older, (checkpoint.resolve(), last)]:
            keep_as(source, path)
        # the previous checkpoint is of the other branch, where a damaged one of this branch must not lead
        if checkpoint.name != run.previous.name:
            run.previous.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_be_written(run, last, error) from error
    if kept:
        names = " and ".join(str(_numbered(path, number)) for path in kept)
        log.warning(f"going back to {checkpoint}; what came after it stays in {names}")


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Explain what goes wrong with the files of a run folder inside this block.

    TensorBoard writes in a thread, whose error comes up again in the main thread and is not shown twice.

    Args:
        folder: The run folder.

    Raises:
        TrainingError: The folder is gone, or a file in it cannot be written.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            before(args)

    threading.excepthook = hook
    try:
        yield
    except (OSError, TrainingError) as error:
        if not folder.is_dir():
            raise TrainingError(f"{folder}: the run folder is gone, nothing can be saved there") from error
        if isinstance(error, OSError) and (name := _inside(error, folder)):
            raise TrainingError(f"{name}: cannot be written ({reason(error)})") from error
        raise
    finally:
        threading.excepthook = before


def _inside(error: OSError, folder: Path) -> str | None:
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return name if name and Path(name).resolve().is_relative_to(folder.resolve()) else None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
