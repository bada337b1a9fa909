"""Video files: which files are videos, and how some of their frames become 8-bit pixels."""

import bisect
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .error import BadImageError, DataError

VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)
# subtitles, playlists and devices can open other files or the network
_FORMATS = frozenset({"asf", "avi", "flv", "matroska", "webm", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "m4v"})
_MAX_SIDE = 8192

Frames: TypeAlias = NDArray[np.uint8]


class BadVideoError(BadImageError):
    """A video file cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it, one line.
    """


class Video(Protocol):
    """What can be asked for some of its frames."""

    @property
    def frames(self) -> int:
        """How many there are, at least 1."""

    def read(self, indices: Sequence[int]) -> Frames:
        """Return the frames of these numbers, which never decrease, (T, H, W, 3)."""


VideoOpener: TypeAlias = Callable[[str], Video]


class VideoFile:
    """The first picture track of a file, whatever its suffix says.

    The packets are listed once, without decoding; to read frames, a file is decoded from the key frame before each
    of them alone. Frames are upright (the rotation of the track is applied) and RGB.

    Args:
        path: the file.

    Attributes:
        path: the file.
        frames: how many.

    Raises:
        BadVideoError: missing, empty, truncated, not a video, or without pictures.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise BadVideoError(self.path, "is a folder" if os.path.isdir(self.path) else "no such file")
        if not os.path.getsize(self.path):
            raise BadVideoError(self.path, "empty, not a video")
        self._times, self._keys = self._index()
        self.frames = len(self._times)

    def _open(self) -> Any:
        try:
            import av
        except ImportError as error:
            raise DataError("videos need PyAV: install the extra [video]") from error
        container = av.open(self.path, options={"protocol_whitelist": "file"})
        kinds = set(container.format.name.split(","))
        if not kinds & _FORMATS:
            container.close()
            raise BadVideoError(self.path, f"not a video (its format is {container.format.name})")
        if not container.streams.video:
            tracks = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            raise BadVideoError(self.path, f"has no pictures, only {tracks}")
        return container

    def _index(self) -> tuple[list[int], list[tuple[int, int]]]:
        """List when frames are shown; of key frames also when they are decoded, by which a file is sought."""
        try:
            with self._open() as container:
                stream = container.streams.video[0]
                if max(stream.width, stream.height) > _MAX_SIDE:
                    raise ValueError(f"{stream.width} × {stream.height} pixels are more than {_MAX_SIDE} a side")
                promised = stream.frames
                packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
                times = sorted({_time(packet) for packet in packets})
                keys = sorted((_time(p), p.pts if p.dts is None else p.dts) for p in packets if p.is_keyframe)
        except BadVideoError:
            raise
        except Exception as error:  # damaged bytes may raise anything
            _raise(self.path, error)
        if len(times) < promised:
            raise BadVideoError(self.path, f"truncated: {len(times)} of {promised} frames are there")
        if not times or not keys:
            raise BadVideoError(self.path, "has no frame that can be decoded")
        return times, keys

    def read(self, indices: Sequence[int]) -> Frames:
        """Return the frames of these numbers, which never decrease, (T, H, W, 3).

        Raises:
            BadVideoError: they cannot be decoded, or differ in size.
        """
        wanted = [self._times[index] for index in indices]
        try:
            with self._open() as container:
                found = self._decode(container, sorted(set(wanted)))
        except BadVideoError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            _raise(self.path, error)
        sizes = list(dict.fromkeys(frame.shape[:2] for frame in found.values()))
        if len(sizes) > 1:
            (h, w), (h2, w2) = sizes[:2]
            raise BadVideoError(self.path, f"changes its size, from {w} × {h} to {w2} × {h2} pixels")
        return np.stack([found[time] for time in wanted])

    def _decode(self, container: Any, wanted: Sequence[int]) -> dict[int, Frames]:
        """Return the frames shown at these times, which increase."""
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}  # damage is to be told, not painted over
        found: dict[int, Frames] = {}
        decoder, now = None, -1
        for time in wanted:
            place = bisect.bisect_right(self._keys, (time, 1 << 62)) - 1
            key, decoded_at = self._keys[max(place, 0)]
            if decoder is None or key > now:
                container.seek(decoded_at, stream=stream)
                decoder = container.decode(stream)
            for frame in decoder:
                now = frame.pts if frame.pts is not None else frame.dts
                if frame.is_corrupt:
                    raise ValueError(f"frame {bisect.bisect_left(self._times, now)} is damaged")
                if now >= time:
                    break
            if now != time:
                raise ValueError(f"frame {bisect.bisect_left(self._times, time)} cannot be decoded")
            pixels = frame.to_ndarray(format="rgb24")
            found[time] = np.rot90(pixels, round(frame.rotation / 90)) if frame.rotation else pixels
        return found


class VideoInMemory:
    """Frames that need no decoding.

    Args:
        pixels: (T, H, W, 3).
    """

    def __init__(self, pixels: Frames) -> None:
        self.pixels = pixels
        self.frames = len(pixels)

    def read(self, indices: Sequence[int]) -> Frames:
        """Return the frames of these numbers, (T, H, W, 3)."""
        return self.pixels[list(indices)]


def list_videos(folder: str | os.PathLike[str]) -> list[str]:
    """List the video files below a folder, by their suffix; sorted paths that begin with it.

    Hidden files and folders are left out.
    """
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(root, name) for name in files if is_video(name)]
    return sorted(found)


def is_video(name: str) -> bool:
    """Tell by its suffix whether a file is a video."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _time(packet: Any) -> int:
    return int(packet.pts if packet.pts is not None else packet.dts)


def _raise(path: str, error: Exception) -> None:
    import av

    if isinstance(error, av.error.InvalidDataError):
        raise BadVideoError(path, "truncated, damaged or not a video") from error
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    raise BadVideoError(path, text) from error
