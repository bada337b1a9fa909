"""Binary files that appear whole or not at all, where a library insists on writing to a path."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; what is there is moved to its place if nothing fails.

    Raises:
        OSError: it cannot be written there.
    """
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".part{path.suffix}", dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if mode is None:
            mask = os.umask(0)
            os.umask(mask)
            mode = 0o666 & ~mask
        part.chmod(mode)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
