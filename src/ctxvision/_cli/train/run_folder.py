"""Where a run keeps its files, and which checkpoint it continues from."""

import itertools
import os
from pathlib import Path

from ..errors import UserError
from .config import TrainConfig

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
        UserError: the folder is in use, or holds nothing to resume.
    """
    if config.resume:
        return _resumed(config)
    if rank and _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE]), None
    if rank and not config.out:
        raise UserError("several machines need a common run folder: --out RUNDIR", 2)
    if not config.out:
        return _numbered(config), None
    folder = Path(config.out)
    if not rank and folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: exists and is not empty; choose another --out, or continue with --resume {folder}"
        )
    return folder, None


def make(folder: Path) -> None:
    """Make the run folder, and tell the processes that this one starts about it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({(error.strerror or str(error)).lower()})") from error
    os.environ[_VARIABLE] = str(folder)


def _resumed(config: TrainConfig) -> tuple[Path, Path]:
    path = Path(config.out or ".") if config.resume == "last" else Path(config.resume or ".")
    checkpoint = path if path.is_file() else path / "checkpoints" / "last.ckpt"
    folder = checkpoint.parent.parent
    if not checkpoint.is_file():
        raise UserError(f"{folder}: no checkpoint to resume from (no checkpoints/last.ckpt)")
    return folder, checkpoint


def _numbered(config: TrainConfig) -> Path:
    """Name the first free of runs/MODEL-DATA-1, -2 and so on."""
    name = f"{config.model}-{Path(config.data).resolve().name}"
    return next(folder for n in itertools.count(1) if not (folder := Path("runs") / f"{name}-{n}").exists())
