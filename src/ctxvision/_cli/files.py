"""Places that a command is to write to."""

import os
from pathlib import Path

from ctxvision.files import reason
from ctxvision.wording import option

from .messages import UserError


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder, and those above it, if it does not exist.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({reason(error)})") from error
    return Path(folder)


def require_places(**paths: str | os.PathLike[str] | None) -> None:
    """Find out before the work whether files can be written.

    Args:
        paths: Paths of the files by option; ``None`` where there is none.

    Raises:
        UserError: A file cannot be written, or two are the same.
    """
    given = [os.fspath(path) for path in paths.values() if path]
    if len({os.path.realpath(path) for path in given}) < len(given):
        options = [option(name) for name in paths]
        raise UserError(f"{', '.join(options[:-1])} and {options[-1]} must be different files", 2)
    for path in given:
        place = Path(path)
        folder = place.resolve().parent
        if place.is_dir():
            raise UserError(f"{path}: cannot be written (is a folder)")
        if place.exists() and not place.is_file():  # a pipe or a device, which lies in no folder of ours
            continue
        if not folder.is_dir():
            raise UserError(f"{path}: cannot be written (there is no folder {os.path.dirname(path)})")
        if not os.access(folder, os.W_OK):
            raise UserError(f"{path}: cannot be written (permission denied)")


def require_place(folder: str | os.PathLike[str], mark: str) -> None:
    """Find out before the work whether a folder can be written.

    Args:
        folder: Path of the folder, which need not exist; what is in it must stem from an earlier call.
        mark: Name of a file that such a folder has.

    Raises:
        UserError: The folder cannot be written.
    """
    path = Path(folder)
    above = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not above.is_dir():
        which = "" if path.exists() else f"{above} "
        raise UserError(f"{folder}: cannot be written ({which}is a file)")
    if not os.access(above, os.W_OK):
        raise UserError(f"{folder}: cannot be written (permission denied)")
    if path.is_dir() and any(path.iterdir()) and not (path / mark).is_file():
        raise UserError(f"{folder}: is not empty and holds no {mark} of an earlier call; choose another --out")
