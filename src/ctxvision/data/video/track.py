"""The picture track of a file: opened, listed packet by packet, and decoded in the order of its bytes."""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from ctxvision._extras import explain_import
from ctxvision.data.error import BadImageError, DataError

# subtitles, playlists and devices can open other files or the network
FORMATS = frozenset(
    {
        "apng", "asf", "av1", "avi", "dv", "flv", "gif", "h261", "h263", "h264", "hevc", "ivf", "jpeg_pipe", "m4v",
        "matroska", "mjpeg", "mov", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "swf", "vc1",
        "vvc", "wtv", "yuv4mpegpipe",
    }
)  # fmt: skip
MAX_SIDE = 8192
MAX_PIXELS = 8192 * 4352  # 8K; a frame is then some 100 MB
MAX_FRAMES = 1 << 22  # 19 hours at 60 frames a second
_COVERS = 1 << 10 | 1 << 11  # dispositions of cover pictures and thumbnails, which are tracks of their own


class BadVideoError(BadImageError):
    """A video file cannot be used.

    Attributes:
        path: The path of the file.
        reason: The fault of the file, described in one line.
    """


class PacketTimes(NamedTuple):
    """What a container says about a packet: times in units of the track, `None` where it does not say."""

    shown: int | None
    decoded: int | None
    key: bool
    discarded: bool
    corrupt: bool


@contextmanager
def open_track(path: str, **options: str) -> Iterator[tuple[Any, Any]]:
    """Open a file for its first track of moving pictures: PyAV's container and stream.

    Args:
        path: The path of the file.
        options: The options of FFmpeg's demuxer.

    Raises:
        BadVideoError: The file is no video, has no pictures or too large ones, or FFmpeg fails on it inside the
            ``with`` block.
        DataError: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise DataError(f"videos: {explain_import(error) or error}") from error
    options |= {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    try:
        # before PyAV 18, options of tracks crash the process where FFmpeg finds tracks only while it probes (FLV)
        name = "options" if int(av.__version__.partition(".")[0]) >= 18 else "container_options"
        given: dict[str, Any] = {name: options}
        with av.open(path, metadata_errors="replace", **given) as container:
            yield container, _pictures(path, container)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise BadVideoError(path, "truncated, damaged or not a video") from error
    except av.error.FFmpegError as error:  # of what else FFmpeg complains; errors of ours are not bad data
        raise BadVideoError(path, " ".join((error.strerror or str(error)).lower().split())) from error


def formats(container: Any) -> set[str]:
    """Name the demuxer of a container: some have several names."""
    return set(container.format.name.split(","))


def _pictures(path: str, container: Any) -> Any:
    if not formats(container) & FORMATS:
        raise BadVideoError(path, f"not a video (its format is {container.format.name})")
    moving = [stream for stream in container.streams.video if not stream.disposition.value & _COVERS]
    if not moving:
        kinds = {"a cover" if stream.type == "video" else stream.type for stream in container.streams}
        raise BadVideoError(
            path, f"has no pictures, only {', '.join(sorted(kinds))}" if kinds else "has no tracks"
        )
    stream = next((stream for stream in moving if stream.codec_context is not None), None)
    if stream is None:
        raise BadVideoError(path, "its pictures are coded in a way that this FFmpeg cannot decode")
    width, height = stream.codec_context.width, stream.codec_context.height
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadVideoError(
            path,
            f"{width} × {height} pixels are more than {MAX_SIDE} a side or {MAX_PIXELS:,} in all; scale it down",
        )
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a later frame may be larger
    return stream


def demux(path: str, container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a track, from where the container stands."""
    try:
        yield from container.demux(stream)
    except IndexError as error:  # PyAV cannot follow
        raise BadVideoError(path, "has a track that begins later than the others") from error


def list_packets(path: str, container: Any, stream: Any) -> list[PacketTimes]:
    """List what the container says about the packets of a track, without decoding.

    Raises:
        BadVideoError: There are more packets than `MAX_FRAMES`.
    """
    packets: list[PacketTimes] = []
    for packet in demux(path, container, stream):
        if not packet.size:  # the last one, which flushes the decoder
            continue
        if len(packets) == MAX_FRAMES:
            raise BadVideoError(path, f"has more than {MAX_FRAMES:,} frames; cut it into parts")
        times = packet.pts, packet.dts
        packets.append(PacketTimes(*times, packet.is_keyframe, packet.is_discard, packet.is_corrupt))
    return packets


def decode(packets: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Decode packets in their order, as every player does: what fails is passed over.

    Yields:
        A frame, and whether something has failed or was painted over since the last key frame, on which it may
        be built.
    """
    from av.error import FFmpegError

    damaged, begun = False, False
    for packet in packets:
        try:
            frames = packet.decode()
        except FFmpegError:
            damaged = begun  # a recording may begin between key frames: what comes before the first is no loss
            continue
        for frame in frames:
            begun = True
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            yield frame, damaged


_PARENTS = frozenset({b"edts", b"mdia", b"minf", b"moof", b"moov", b"stbl", b"traf", b"trak"})
_COUNTED = frozenset({b"cmov", b"elst", b"stsz", b"trun"})
_MAX_ENTRIES = 1 << 24  # of FFmpeg's list, some 30 bytes each


def check_claims(path: str) -> None:
    """Refuse a header of MP4 or QuickTime that lists more samples than the file can hold; other containers pass.

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
