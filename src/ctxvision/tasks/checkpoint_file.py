"""Checkpoint files that carry their own checksum, and appear whole or not at all.

``torch.save`` writes a zip file. The SHA-256 of its bytes goes into the comment that a zip file may end with: it
travels with every copy, needs no second file that could be lost or be of another generation, and torch and every
unzip program read the file as before.
"""

import contextlib
import hashlib
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from ctxvision.files import replacing

_TAG = b"ctxvision-sha256:"
_COMMENT = len(_TAG) + 64
_CHUNK = 1 << 20


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint with its checksum, read it back, and only then move it to its place.

    Args:
        checkpoint: The values, as ``torch.save`` takes them.
        path: The path to write to, in a folder that exists; a file there is replaced in one step.
        previous: The path that the replaced file moves to, if it is whole.

    Raises:
        OSError: The file cannot be written, or does not read back as it was written; what was there is still
            there.
    """
    with _replacing(path, previous) as file:
        writer = _HashingWriter(file)
        try:
            torch.save(dict(checkpoint), writer)  # type: ignore[arg-type]
        except Exception as error:  # torch reports a failed write as one of its own
            if writer.error:
                raise writer.error from error
            raise
        # the last two bytes are the length of the comment, so far 0
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _COMMENT) + _TAG + writer.hash.hexdigest().encode())


def copy_checkpoint(source: Path, path: Path, previous: Path | None = None) -> None:
    """Copy a checkpoint as `save_checkpoint` writes one.

    Raises:
        OSError: The source is damaged, or the file cannot be written; what was there is still there.
    """
    expected = checksum_fits(source)
    if expected is False:
        raise OSError(f"{source.name} is damaged")
    with source.open("rb") as original, _replacing(path, previous, expected) as file:
        shutil.copyfileobj(original, file, _CHUNK)


def keep_as(source: Path, path: Path) -> None:
    """Give a checkpoint a second name, in one step; nothing is copied where the file system has links.

    Raises:
        OSError: The file can neither be linked nor copied.
    """
    try:
        with replacing(path, follow_links=False) as part:
            part.unlink()
            os.link(source, part)
    except OSError:
        copy_checkpoint(source, path)


def checksum_fits(path: Path) -> bool | None:
    """Compare a file with the checksum in it; ``None`` if it has none, as older ones and others' have none.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size - _COMMENT
    with path.open("rb") as file:
        file.seek(max(size, 0))
        comment = file.read()
        if size < 2 or not re.fullmatch(re.escape(_TAG) + rb"[0-9a-f]{64}", comment):
            return None
        file.seek(0)
        digest, left = hashlib.sha256(), size - 2
        while left and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")
    return digest.hexdigest().encode() == comment[len(_TAG) :]


@contextlib.contextmanager
def _replacing(path: Path, previous: Path | None = None, expected: bool | None = True) -> Iterator[IO[bytes]]:
    """Open a file for writing that is moved to a path when it is on the disk and reads back well."""

    def require_whole(part: Path) -> None:
        if checksum_fits(part) is not expected:
            raise OSError("does not read back as it was written")
        # a damaged file must not push a good one out
        if previous and path.is_file() and checksum_fits(path):
            keep_as(path, previous)

    # a link is replaced, not the checkpoint that it points to
    with replacing(path, ready=require_whole, follow_links=False) as part, part.open("w+b") as file:
        yield file


class _HashingWriter:
    """A file for ``torch.save`` that computes the checksum of what it is given, and remembers why a write failed.

    Args:
        file: The file to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and add to the checksum."""
        if self.error:
            raise self.error
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Empty the buffer; torch asks for it."""
        self.file.flush()
