"""Where a run keeps its files, and which checkpoint it continues from."""

import itertools
import logging
import os
from contextlib import ExitStack
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from ctxvision.checkpoints import CheckpointError
from ctxvision.files import reason, remove_parts
from ctxvision.foreign import file_name
from ctxvision.runs import RunFolder
from ctxvision.tasks.loading import require_readable
from ctxvision.training.error import OptionError, TrainingError
from ctxvision.wording import plural

from . import run_lock
from .options.base import TrainConfig
from .processes import launch as processes

log = logging.getLogger(__name__)

# processes that Lightning starts for more devices inherit the first one's choice
_VARIABLE = "CTXVISION_RUN_FOLDER"


def choose(config: TrainConfig, rank: int) -> tuple[Path, Path | None]:
    """Find the run folder; `make` makes it.

    Args:
        config: of the run.
        rank: of this process.

    Returns:
        The run folder, and the checkpoint to resume from if any.

    Raises:
        TrainingError: the folder is in use, or holds nothing to resume.
    """
    if config.resume:
        return _resumed(Path(config.out or ".") if config.resume == "last" else Path(config.resume))
    if rank and _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE]), None
    launch = processes.launched()
    if not config.out and (rank or (launch and launch.devices * launch.nodes > 1)):
        raise OptionError("processes that this one has not started need a common run folder: --out RUNDIR")
    if not config.out:
        return _numbered(config), None
    folder = Path(config.out)
    if launch and folder.is_dir() and (rank or _is_of(launch, folder)):
        # the first process refuses what is not of this run, and all end
        return _begun_again(launch, folder)
    if not rank and folder.is_dir() and set(folder.iterdir()) - {RunFolder(folder).lock_file}:
        raise TrainingError(
            f"{folder}: exists and is not empty; choose another --out, or continue with --resume {folder}"
        )
    return folder, None


def make(folder: Path, until_end: ExitStack) -> None:
    """Make the run folder, keep others out of it, and tell the processes that this one starts about it.

    Args:
        folder: of the run.
        until_end: when it ends, others may come in.

    Raises:
        TrainingError: it cannot be made, or another process is training there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be made ({reason(error)})") from error
    launch = processes.launched()
    until_end.enter_context(run_lock.held(folder, launch.run if launch else ""))
    for place in (folder, RunFolder(folder).checkpoints):
        remove_parts(place)
    os.environ[_VARIABLE] = str(folder)


def _is_of(launch: processes.Launch, folder: Path) -> bool:
    return launch.repeats and RunFolder(folder).read_lock().get("run") == launch.run


def _begun_again(launch: processes.Launch, folder: Path) -> tuple[Path, Path | None]:
    _say(f"{launch.by} has begun this run again ({plural(launch.restarts, 'restart')}); continuing in {folder}")
    return _resumed(folder) if RunFolder(folder).has_checkpoints() else (folder, None)


def _resumed(path: Path) -> tuple[Path, Path | None]:
    if path.is_file():
        _require_whole(path)
        return RunFolder.around(path).path, path
    run = RunFolder(path)
    found = [file for file in (run.last, run.previous) if file.is_file()]
    if not found:
        if not _never_saved(run):
            raise TrainingError(
                f"{path}: no checkpoint to resume from (no checkpoints/last.ckpt){_best_advice(run)}"
            )
        _say(f"{path}: stopped before its first checkpoint; beginning again")
        return path, None
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
        return path, file
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
    if not rank_zero_only.rank:
        log.warning(line)


def _numbered(config: TrainConfig) -> Path:
    """Name the first free of runs/MODEL-DATA-1, -2 and so on."""
    name = file_name(f"{config.model}-{Path(config.data).resolve().name}")
    return next(folder for n in itertools.count(1) if not (folder := Path("runs") / f"{name}-{n}").exists())
