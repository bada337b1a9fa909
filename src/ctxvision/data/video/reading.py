"""Video files: which frame has which number, and how some of the frames become 8-bit pixels."""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxvision.files import reason

from .track import (
    MAX_FRAMES,
    BadVideoError,
    PacketTimes,
    check_claims,
    decode,
    demux,
    formats,
    list_packets,
    open_track,
)

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


Frames: TypeAlias = NDArray[np.uint8]


class Video(Protocol):
    """A video that returns some of its frames."""

    @property
    def frames(self) -> int:
        """The number of frames, at least 1."""

    def read(self, indices: Sequence[int]) -> Frames:
        """Return the frames of these numbers, which never decrease, (T, H, W, 3)."""


VideoOpener: TypeAlias = Callable[[str], Video]


class _WrongIndexError(Exception):
    """The frames of a file are others than its index says."""


class VideoFile:
    """The first track of moving pictures of a file, whatever its suffix says.

    Frame ``n`` is the one that comes ``n``-th when the file is decoded from its beginning. The packets are listed
    once, without decoding. Where they say which frames there are, a file is decoded from the key frame before each
    of the frames alone, and what comes is checked against the list; elsewhere (AVI, MPEG, …) it is decoded from
    its beginning, once to count the frames and then as far as they are needed. Frames are upright (the rotation of
    the track is applied) and RGB.

    Args:
        path: The path of the file.

    Attributes:
        path: The path of the file.
        frames: The number of frames.

    Raises:
        BadVideoError: The file is missing, empty, truncated, no video, or without pictures.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            missing = not os.path.lexists(self.path) or os.path.islink(self.path)
            what = "is a folder" if os.path.isdir(self.path) else "no such file" if missing else "not a file"
            raise BadVideoError(self.path, what)
        try:
            if not os.path.getsize(self.path):
                raise BadVideoError(self.path, "empty, not a video")
            check_claims(self.path)
        except OSError as error:
            raise BadVideoError(self.path, reason(error)) from error
        self._index = read_index(self.path)
        self.frames = len(self._index.times) if self._index else self._count()

    def _count(self) -> int:
        state = os.stat(self.path)
        return count_frames(self.path, state.st_size, state.st_mtime_ns)

    def read(self, indices: Sequence[int]) -> Frames:
        """Return the frames of these numbers, which never decrease, (T, H, W, 3).

        Raises:
            BadVideoError: The frames cannot be decoded, or differ in size.
        """
        if self._index:
            try:
                return self._stack(indices, self._sought(self._index, sorted(set(indices))))
            except _WrongIndexError:
                self._index, self.frames = None, self._count()
        if max(indices) >= self.frames:
            raise BadVideoError(self.path, f"frame {max(indices)} cannot be decoded, only {self.frames} can")
        return self._stack(indices, self._from_start(sorted(set(indices))))

    def _stack(self, indices: Sequence[int], frames: Iterator[tuple[int, Frames]]) -> Frames:
        """Put the frames of these numbers together as they come."""
        pixels: Frames | None = None
        for number, frame in frames:
            if pixels is None:
                pixels = np.empty((len(indices), *frame.shape), np.uint8)
            elif frame.shape != pixels.shape[1:]:
                (h, w), (h2, w2) = pixels.shape[1:3], frame.shape[:2]
                raise BadVideoError(self.path, f"changes its size, from {w} × {h} to {w2} × {h2} pixels")
            pixels[[place for place, index in enumerate(indices) if index == number]] = frame
        if pixels is None:
            raise BadVideoError(self.path, "has no frame that can be decoded")
        return pixels

    def _pixels(self, number: int, frame: Any, damaged: bool) -> Frames:
        if damaged:
            raise BadVideoError(self.path, f"frame {number} is damaged")
        return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))

    def _from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """Decode from the beginning, as far as frames are wanted."""
        left = list(reversed(wanted))
        with open_track(self.path) as (container, stream):
            for number, (frame, damaged) in enumerate(decode(demux(self.path, container, stream))):
                if number == left[-1]:
                    yield number, self._pixels(number, frame, damaged)
                    left.pop()
                if not left:
                    return
        raise BadVideoError(self.path, f"frame {left[-1]} cannot be decoded")

    def _sought(self, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """Decode from the key frame before each wanted frame.

        Raises:
            _WrongIndexError: Other frames come than the index says.
        """
        numbers = [key.number for key in index.keys]
        with open_track(self.path) as (container, stream):
            coming: Iterator[tuple[int, Any, bool]] = iter(())
            now = -1
            for number in wanted:
                key = index.keys[bisect_right(numbers, number) - 1]
                if key.number > now or now < 0:
                    coming = self._from_key(container, stream, index, key)
                for now, frame, damaged in coming:
                    if now == number:
                        yield now, self._pixels(now, frame, damaged)
                        break
                else:
                    raise _WrongIndexError

    def _from_key(self, container: Any, stream: Any, index: Index, key: Key) -> Iterator[tuple[int, Any, bool]]:
        packets, number, sought = demux(self.path, container, stream), 0, bool(key.sought)
        for time in key.sought:
            container.seek(time, stream=stream)
            packets = demux(self.path, container, stream)
            first = next(packets)
            if first.pts is None or not first.is_keyframe:
                raise _WrongIndexError
            packets, number = chain([first], packets), max(bisect_right(index.times, first.pts) - 1, 0)
            sought = index.times[number] == first.pts
            if number <= key.number:  # an earlier key frame will do
                break
        else:
            if key.sought:
                raise _WrongIndexError
        begin = index.times[number]
        for frame, damaged in decode(packets):
            if frame.pts is None:
                raise _WrongIndexError
            if frame.pts < begin:
                continue  # built on what came before the key frame
            if number == len(index.times) or frame.pts != index.times[number]:
                raise _WrongIndexError
            if frame.pts == begin and sought and not frame.key_frame:
                raise _WrongIndexError
            yield number, frame, damaged
            number += 1


class VideoInMemory:
    """A video in memory, whose frames need no decoding.

    Args:
        pixels: The frames, (T, H, W, 3) uint8.
    """

    def __init__(self, pixels: Frames) -> None:
        self.pixels = pixels
        self.frames = len(pixels)

    def read(self, indices: Sequence[int]) -> Frames:
        """Return the frames of these numbers, (T, H, W, 3)."""
        return self.pixels[list(indices)]
