"""A look at the headers of MP4 and QuickTime files before FFmpeg builds, in memory, all that they claim."""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from .track import BadVideoError

_PARENTS = frozenset({b"edts", b"mdia", b"minf", b"moof", b"moov", b"stbl", b"traf", b"trak"})
_COUNTED = frozenset({b"cmov", b"elst", b"stsz", b"trun"})
_MAX_ENTRIES = 1 << 24  # of FFmpeg's list, some 30 bytes each


def check_claims(path: str) -> None:
    """Refuse a header that lists more samples than the file can hold; other containers pass.

    A few bytes can claim 10⁹ samples, one stored many times over, or shown by many edits; FFmpeg makes a list of
    them when it opens the file (ISO/IEC 14496-12, sections 8.6.6, 8.7.3 and 8.8.8).

    Raises:
        BadVideoError: There are too many frames, or the header is compressed, so that this cannot be seen.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        samples = fragments = 0
        edits = 1
        for kind, body in _boxes(file, 0, size):
            if kind == b"cmov":
                raise BadVideoError(path, "its header is compressed; copy it into a new file with ffmpeg -c copy")
            if kind == b"elst":
                edits = max(edits, struct.unpack(">I", body[4:8])[0])
            elif kind == b"trun":
                fragments += struct.unpack(">I", body[4:8])[0]
            else:
                each, count = struct.unpack(">II", body[4:12])
                samples = max(samples, count)
                fragments = max(fragments, each and each * count)
    if max(samples, fragments) > size:
        raise BadVideoError(path, f"truncated or damaged: its header lists more than its {size:,} bytes can hold")
    if edits > 1 and edits * samples > _MAX_ENTRIES:
        raise BadVideoError(
            path, f"has {edits:,} edits of up to {samples:,} frames; more than {_MAX_ENTRIES:,} in all"
        )


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the first 12 bytes of the boxes that count something, wherever they are nested."""
    parts = [(begin, end)]
    while parts:
        place, end = parts.pop()
        while place + 8 <= end:
            file.seek(place)
            head = file.read(28)
            if len(head) < 8:
                break
            length, kind = struct.unpack(">I4s", head[:8])
            header = 8
            if length == 1 and len(head) >= 16:
                length, header = struct.unpack(">Q", head[8:16])[0], 16
            elif length == 0:
                length = end - place
            if length < header:
                break
            if kind in _PARENTS:
                parts.append((place + header, min(place + length, end)))
            elif kind in _COUNTED and len(head) >= header + 12:
                yield kind, head[header : header + 12]
            place += length
