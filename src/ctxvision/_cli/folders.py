"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .errors import UserError


def require_place(folder: str | os.PathLike[str], mark: str) -> None:
    """Find out before the work whether a folder can be written.

    Args:
        folder: it need not exist; what is in it must stem from an earlier call.
        mark: a file that such a folder has.

    Raises:
        UserError: it cannot.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"{folder}: cannot be written (is a file)")
    above = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not above.is_dir():
        raise UserError(f"{folder}: cannot be written ({above} is a file)")
    if not os.access(above, os.W_OK):
        raise UserError(f"{folder}: cannot be written (permission denied)")
    if path.is_dir() and any(path.iterdir()) and not (path / mark).is_file():
        raise UserError(f"{folder}: is not empty and holds no {mark} of an earlier call; choose another --out")


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write files beside the folder's place and move them there when all are complete.

    What an earlier call left is replaced, with all that lies in subfolders of the same names; the last of the
    files comes last.

    Args:
        folder: is made if it does not exist.
        files: contents by path in the folder, with at most one ``/``.

    Raises:
        UserError: they cannot be written there.
    """
    path = Path(folder)
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent))
        try:
            new.chmod(0o777 & ~_umask())
            for name, data in files.items():
                (new / name).parent.mkdir(exist_ok=True)
                with (new / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            if not target.exists():
                new.rename(target)
            else:
                _replace(new, target, list(dict.fromkeys(name.split("/")[0] for name in files)))
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from error


def _replace(new: Path, target: Path, names: list[str]) -> None:
    for name in names:
        if not (new / name).is_dir() or not (target / name).exists():
            (new / name).replace(target / name)
            continue
        # a folder cannot be moved over another that has files
        old = new / f"{name}.old"
        (target / name).rename(old)
        try:
            (new / name).rename(target / name)
        except BaseException:
            old.rename(target / name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
