"""Checksums of files."""

import hashlib
from pathlib import Path

_CHUNK = 2**20


def digest_of(path: Path, kind: str) -> str:
    """Return the checksum of a file as hexadecimal digits.

    Args:
        path: Path of the file.
        kind: Name of the algorithm, as ``hashlib`` knows it.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
