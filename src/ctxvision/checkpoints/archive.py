"""Zip files of strangers: what they claim is compared with what they are, before anything in them is opened."""

import struct
import sys
import zipfile
from typing import Any, BinaryIO

import torch

_END = b"PK\x05\x06"
_END_SIZE = 22
_LONGEST_COMMENT = 2**16 - 1


class ArchiveError(ValueError):
    """An archive is not what it claims to be; the message is the reason alone, without the file's name."""


def has_whole_end(file: BinaryIO) -> bool:
    """Tell whether a zip file ends where its last record says, comment included.

    A file that was cut within its comment, or that something was appended to, reads as before but is not what was
    written: the record before the comment knows its length.

    Args:
        file: File, open for reading in binary mode and seekable; its position changes.
    """
    size = file.seek(0, 2)
    tail_size = min(size, _END_SIZE + _LONGEST_COMMENT)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    place = tail.rfind(_END)
    # a comment may hold the signature: the true record is the one whose comment ends with the file
    while place >= 0:
        if len(tail) - place >= _END_SIZE:
            (length,) = struct.unpack_from("<H", tail, place + _END_SIZE - 2)
            if place + _END_SIZE + length == len(tail):
                return True
        place = tail.rfind(_END, 0, place)
    return False


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Open an archive as torch writes them: no member is compressed or comes twice, and all fit in the file.

    So nothing in it unpacks to more than the file's own size.

    Args:
        file: File, open for reading in binary mode and seekable.

    Raises:
        ArchiveError: The file is another archive than torch writes, or no archive.
    """
    size = file.seek(0, 2)
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError) as error:
        raise ArchiveError("truncated or damaged") from error
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise ArchiveError(f"it holds {name[:80]!r} twice, so that readers may see different files")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ArchiveError(
                f"{member.filename[:80]!r} in it is compressed, from {member.file_size:,} bytes to "
                f"{member.compress_size:,}; torch writes none so: unpack it and save it with torch.save again"
            )
    if sum(member.file_size for member in members) > size:
        raise ArchiveError(f"its members claim more bytes than the file has ({size:,})")
    return archive


def load_pickled(file: BinaryIO) -> Any:
    """Read what ``torch.save`` wrote, tensors and plain values alone, from a file that need not be trusted.

    Tensors are mapped from the file where it is a zip file, so that none reaches beyond it; copy what is to last.

    Args:
        file: File, opened by its path.

    Raises:
        ArchiveError: The file is a zip file that is not as torch writes it.
        OSError: The file cannot be read.
        Exception: Torch refuses the contents; the type of the exception is whatever torch raises.
    """
    is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:
        with open_archive(file) as archive:
            order = next((n for n in archive.namelist() if n.endswith("/byteorder")), None)
            if order and archive.read(order) != sys.byteorder.encode():
                raise ArchiveError(f"it was written on a machine whose order of bytes is not {sys.byteorder}")
    file.seek(0)
    # by its name, since only files with names are mapped
    return torch.load(file.name if is_archive else file, map_location="cpu", weights_only=True, mmap=is_archive)
