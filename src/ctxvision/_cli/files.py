"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from .errors import UserError


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
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=target.parent)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
