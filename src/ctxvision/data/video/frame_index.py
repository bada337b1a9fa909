"""Which frame of a video has which number: by the container's index where it can be trusted, else by counting."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from .track import MAX_FRAMES, BadVideoError, PacketTimes, decode, demux, formats, list_packets, open_track

_INDEXED = frozenset({"matroska", "mov"})  # these say of every packet when it is shown
# of which every packet is one frame; VP8 hides some, MPEG-4 packs two into one
_ONE_FRAME_EACH = frozenset({"av1", "dnxhd", "ffv1", "h264", "hevc", "libdav1d", "mjpeg", "prores", "vp9"})
_PROGRESSIVE = (0, 1)  # FFmpeg's field orders: unknown and progressive; others may have two packets for a frame

_REORDERED = 16  # the last packet of a file is one of so many last frames


class Key(NamedTuple):
    """A key frame: its number, and the times to try to find it by; none at the beginning of the file."""

    number: int
    sought: tuple[int, ...]


class Index(NamedTuple):
    """The frames of a video by number.

    Attributes:
        times: The time at which each frame is shown, increasing, in units of the track's time base.
        keys: The frames from which decoding can begin.
    """

    times: list[int]
    keys: list[Key]


def read_index(path: str) -> Index | None:
    """List the packets of a video without decoding; ``None`` where they do not tell which frames there are.

    Raises:
        BadVideoError: The file cannot be read, is truncated, or has no packets.
    """
    with open_track(path) as (container, stream):
        promised, kinds, codec = stream.frames, formats(container), stream.codec_context
        packets = list_packets(path, container, stream)
    if not packets:
        raise BadVideoError(path, "has no frame that can be decoded")
    if "jpeg_pipe" in kinds and len(packets) == 1:
        raise BadVideoError(path, "a picture, not a video")
    _check_end(path, packets, promised, kinds)
    if not kinds & _INDEXED or codec.name not in _ONE_FRAME_EACH:
        return None
    if getattr(codec, "field_order", 0) not in _PROGRESSIVE:
        return None
    return _index(packets)


def _check_end(path: str, packets: Sequence[PacketTimes], promised: int, kinds: set[str]) -> None:
    """Raise where the end is missing of a file that says where its end is."""
    if not kinds & {"avi", "mov"}:
        return
    found = len(packets) - packets[-1].corrupt
    # of AVI, the number in the header is a duration
    if "mov" in kinds and len(packets) < promised:
        with open_track(path, ignore_editlist="1") as (container, stream):  # parts may be cut away on purpose
            everything = list_packets(path, container, stream)
        found = len(everything) - (bool(everything) and everything[-1].corrupt)
        if found >= promised:
            return
    elif not packets[-1].corrupt:
        return
    raise BadVideoError(path, f"truncated: {found} of {max(promised, found + 1)} frames are there")


def _index(packets: Sequence[PacketTimes]) -> Index | None:
    first = packets[0].shown
    if first is None or not packets[0].key:
        return None
    if any(p.shown is None or p.decoded is None or p.corrupt for p in packets):
        return None
    shown = [
        (p.shown, p.decoded, p.key)
        for p in packets
        if not p.discarded and p.shown is not None and p.decoded is not None
    ]
    times = sorted({at for at, _, _ in shown})
    # pictures shown before the first key frame were built on what is not there
    if len(times) < len(shown) or not times or times[0] < first:
        return None
    # seeking goes by when packets are shown, or by when they are decoded
    keys = sorted(Key(bisect_left(times, at), (at, decoded)) for at, decoded, is_key in shown if is_key)
    return Index(times, [Key(0, ()), *(key for key in keys if key.number)])


@lru_cache(maxsize=1 << 16)
def count_frames(path: str, size: int, changed: int) -> int:
    """Count the frames by decoding them all, once per process.

    Where the last packet is broken off, the frames before it count.

    Args:
        path: The path of the file.
        size: The size of the file in bytes.
        changed: The time at which the file was changed, in nanoseconds; a file that has changed is counted anew.

    Raises:
        BadVideoError: There is no frame, or there are more than `MAX_FRAMES`.
    """
    whole = number = 0
    with open_track(path) as (container, stream):
        for number, (_, damaged) in enumerate(decode(demux(path, container, stream)), 1):
            if number > MAX_FRAMES:
                raise BadVideoError(path, f"has more than {MAX_FRAMES:,} frames; cut it into parts")
            whole = whole if damaged else number
    if not number:
        raise BadVideoError(path, "has no frame that can be decoded")
    return whole if 0 < number - whole <= _REORDERED and whole else number
