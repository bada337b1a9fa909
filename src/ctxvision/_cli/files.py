"""Files that appear whole or not at all."""

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .messages import note

if TYPE_CHECKING:
    from ctxvision.data.files import Listing


def expand(words: Iterable[str], list_files: Callable[[str], "Listing"], what: str = "images") -> list[str]:
    """Replace folders by the files below them, and say what else lies there.

    Args:
        words: files and folders.
        list_files: finds the files below a folder.
        what: to call them.

    Raises:
        UserError: a folder without any.
    """
    paths: list[str] = []
    for word in words:
        if not Path(word).is_dir():
            paths.append(word)
            continue
        found, hints = list_files(word), _hints()
        summary = found.summary(hints)
        if not found.files:
            raise UserError(f"{word}: no {what} in this folder" + (f"; {summary}" if summary else ""))
        if summary:
            note(f"{word}: {summary}")
        paths += found.files
    return paths


def for_json(value: Any) -> Any:
    """Replace NaN and infinity, for which JSON has no words, by null, however deep they lie."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: for_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(one) for one in value]
    return value


def _hints() -> dict[str, str]:
    from ctxvision.data.images import HINTS

    return HINTS


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file beside its place and move it there.

    File names inside a text that are not valid UTF-8 are written as the bytes they are.

    Raises:
        UserError: it cannot be written there.
    """
    path = Path(path)
    try:
        # links stay links: what they point to is replaced
        target = path.resolve()
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=target.parent)
        try:
            data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from error


def keep_aside(path: Path) -> str:
    """Give a damaged file, or what else has its name, the name ``NAME-damaged-1.SUFFIX`` or the next that is free.

    Returns:
        What to say about it, to be added to a sentence: nothing where there is no such file.
    """
    if not os.path.lexists(path):
        return ""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")):
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        return f", and cannot be kept as {aside} ({(error.strerror or str(error)).lower()})"
    return f", and is kept as {aside}"


def require_places(**paths: str | os.PathLike[str] | None) -> None:
    """Find out before the work whether files can be written.

    Args:
        paths: of the files by option; ``None`` where there is none.

    Raises:
        UserError: one cannot, or two are the same.
    """
    given = [os.fspath(path) for path in paths.values() if path]
    if len({os.path.realpath(path) for path in given}) < len(given):
        options = [f"--{option}" for option in paths]
        raise UserError(f"{', '.join(options[:-1])} and {options[-1]} must be different files", 2)
    for path in given:
        folder = Path(path).resolve().parent
        if Path(path).is_dir():
            raise UserError(f"{path}: cannot be written (is a folder)")
        if not folder.is_dir():
            raise UserError(f"{path}: cannot be written (no such file or directory)")
        if not os.access(folder, os.W_OK):
            raise UserError(f"{path}: cannot be written (permission denied)")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
