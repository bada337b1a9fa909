"""Small real videos, good and bad, written by PyAV."""

from contextlib import suppress
from fractions import Fraction

import av
import av.bitstream
import numpy as np


def shades(count, height=48, width=64):
    """Frames (T, H, W, 3) that grow brighter, so that each can be known by its mean."""
    levels = np.linspace(20, 230, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbered(count):
    """At most 64 frames that say their number in the brightness of their halves, for `numbers`."""
    frames = np.zeros((count, 48, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, :32], frame[:, 32:] = 20 + 30 * (index // 8), 20 + 30 * (index % 8)
    return frames


def numbers(frames):
    """What `numbered` frames say, whatever a codec did to them."""
    left, right = (np.rint((frames[:, 8:-8, at : at + 16].mean((1, 2, 3)) - 20) / 30) for at in (8, 40))
    return (8 * left + right).astype(int).tolist()


def noise(count, height=48, width=64):
    """Frames that do not compress."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def moving(count, height=48, width=64):
    """Frames that are all different, with something that moves over something that stays."""
    rows, columns = np.mgrid[:height, :width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = np.stack([rows * 3, columns * 3, (rows + columns + 7 * index) % 64 * 4], -1)
        left = 5 * index % (width - 12)
        frame[8:24, left : left + 12] = 255 - 6 * (index % 40)
    return frames


def write(
    path,
    frames,
    codec="libx264",
    *,
    rate=8,
    gop=12,
    audio=False,
    pixels="yuv420p",
    coding=None,
    times=None,
    **options,
):
    """Write frames as a file of any format, at their number or at ``times``; returns its path."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, options=coding or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            if times:
                picture.pts, picture.time_base = times[index], Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if sound:
            _hum(container, sound)
    return path


def copy(source, path, start=0.0, seek=True, **options):
    """Put the packets into another container without decoding, as ``ffmpeg -ss START -c copy`` does."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        track = old.streams.video[0]
        stream = new.add_stream_from_template(track)
        shift = round(start / track.time_base)
        if start and seek:
            old.seek(shift + (track.start_time or 0), stream=track)
        lengths = new.format.name == "avi" and track.codec_context.name == "h264"  # AVI knows start codes alone
        bits = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", track, stream) if lengths else None
        for packet in old.demux(track):
            if not packet.size:
                continue
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            for one in bits.filter(packet) if bits else [packet]:
                one.stream = stream
                new.mux(one)
    return path


def decoded(path):
    """All frames of a file as they come when it is decoded from its beginning: the truth."""
    frames = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            with suppress(av.error.FFmpegError):
                frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
    return frames


def write_sound(path):
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        _hum(container, container.add_stream("aac", rate=16000))
    return path


def _hum(container, stream):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
    frame.rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def turn(path, height, degrees):
    """Note in an MP4 file that it is to be shown turned clockwise, as telephones do."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # the matrix of a track header of version 0
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = (cos * one, sin * one, 0, -sin * one, cos * one, 0, height * one, 0, 1 << 30)
    data[place : place + 36] = np.array(matrix, ">i4").tobytes()
    path.write_bytes(data)
    return path


def add_bad_videos(folder):
    """Write every kind of bad video; returns (file name, part of the reason) pairs."""
    write(folder / "whole.mp4", noise(40))
    data = (folder / "whole.mp4").read_bytes()
    (folder / "whole.mp4").unlink()
    (folder / "no-index.mp4").write_bytes(data[: len(data) // 2])
    write(folder / "cut.mp4", noise(40), movflags="faststart")
    data = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    damaged = bytearray(write(folder / "damaged.mkv", shades(40)).read_bytes())
    damaged[len(damaged) // 4 : len(damaged) * 3 // 4] = b"\xff" * (len(damaged) * 3 // 4 - len(damaged) // 4)
    (folder / "damaged.mkv").write_bytes(damaged)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("hello " * 100)
    write_sound(folder / "sound.mp4")
    small, large = write(folder / "a.ts", shades(20)), write(folder / "b.ts", shades(20, 64, 96))
    (folder / "grows.ts").write_bytes(small.read_bytes() + large.read_bytes())
    small.unlink(), large.unlink()
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    return [
        ("no-index.mp4", "truncated, damaged or not a video"),
        ("cut.mp4", "truncated: "),
        ("damaged.mkv", ""),
        ("empty.mp4", "empty, not a video"),
        ("text.mp4", "not a video"),
        ("sound.mp4", "has no pictures, only audio"),
        ("grows.ts", "changes its size, from 64 × 48 to 96 × 64 pixels"),
        ("list.mp4", ""),
    ]
