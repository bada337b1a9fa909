"""Headers that claim what the file does not hold: nothing is believed, nothing takes the machine down."""

import os
import struct

import av
import pytest
from _videos import add_bad_videos, moving, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ctxvision.data.video.reading import BadVideoError, VideoFile
from ctxvision.data.video.track import check_claims

TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def box(kind, *parts):
    data = b"".join(parts)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def boxes(data):
    """Split the bytes of a box into the kinds and bodies of those in it."""
    found, place = [], 0
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        found.append((kind, data[place + 8 : place + size]))
        place += size
    return found


def change(data, path, new):
    """Replace the body of the box at a path of kinds."""
    return b"".join(
        box(kind, (change(body, path[1:], new) if path[1:] else new(body)) if kind == path[0] else body)
        for kind, body in boxes(data)
    )


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    return write(tmp_path_factory.mktemp("mp4") / "v.mp4", moving(20)).read_bytes()


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory):
    path = tmp_path_factory.mktemp("mp4") / "f.mp4"
    return write(path, moving(20), movflags="frag_keyframe+empty_moov").read_bytes()


def lists(data, size, count):
    """Let the table of sizes list so many samples, all of one size, and all in a chunk."""
    data = change(data, (*TABLES, b"stsz"), lambda _: struct.pack(">III", 0, size, count))
    return change(data, (*TABLES, b"stsc"), lambda _: struct.pack(">IIIII", 0, 1, 1, count, 1))


def edits(data, count):
    return change(
        data, (b"moov", b"trak", b"edts", b"elst"), lambda b: b[:4] + struct.pack(">I", count) + b[8:] * count
    )


def fragments(data, count):
    place = data.index(b"trun") + 4
    return data[:place] + struct.pack(">II", 0, count) + data[place + 8 :]


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (lambda whole, _: lists(whole, 1, 10**9), "its header lists more than its [0-9,]+ bytes can hold"),
        (lambda whole, _: lists(whole, 0, 10**9), "its header lists more than its [0-9,]+ bytes can hold"),
        (lambda whole, _: lists(whole, 1 << 20, 20), "its header lists more than its [0-9,]+ bytes can hold"),
        (lambda whole, _: edits(whole, 1 << 20), "has 1,048,576 edits of up to 20 frames"),
        (lambda _, parts: fragments(parts, 10**7), "its header lists more than its [0-9,]+ bytes can hold"),
        (lambda whole, _: change(whole, (b"moov",), lambda b: box(b"cmov", b)), "its header is compressed"),
    ],
)
def test_claims_of_a_header_are_seen_before_it_is_believed(tmp_path, monkeypatch, mp4, fragmented, claim, reason):
    (tmp_path / "v.mp4").write_bytes(claim(mp4, fragmented))
    monkeypatch.setattr(av, "open", None)  # FFmpeg never sees it
    with pytest.raises(BadVideoError, match=reason):
        VideoFile(tmp_path / "v.mp4")


def test_honest_headers_pass(tmp_path, mp4, fragmented):
    for data in (mp4, fragmented, edits(mp4, 3)):
        (tmp_path / "v.mp4").write_bytes(data)
        assert VideoFile(tmp_path / "v.mp4").frames == (60 if data not in (mp4, fragmented) else 20)
    large = struct.pack(">I4sQ", 1, b"mdat", 24) + bytes(8) + mp4  # a size of 64 bits
    (tmp_path / "large.mp4").write_bytes(large)
    check_claims(str(tmp_path / "large.mp4"))


def test_the_length_in_an_avi_header_is_not_a_number_of_frames(tmp_path):
    path = write(tmp_path / "v.avi", moving(20), "mpeg4")
    data = bytearray(path.read_bytes())
    for kind, place in ((b"avih", 24), (b"strh", 40)):
        at = data.index(kind) + place
        data[at : at + 4] = struct.pack("<I", 3600)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 3600
    assert VideoFile(path).frames == 20


@pytest.mark.parametrize(
    ("name", "codec", "reason"),
    [
        ("v.mp4", "libx264", "8320 × 48 pixels are more than 8192 a side"),
        ("v.mkv", "ffv1", "8320 × 48 pixels are more than 8192 a side"),
    ],
)
def test_pixels_have_a_limit(tmp_path, name, codec, reason):
    with pytest.raises(BadVideoError, match=reason):
        VideoFile(write(tmp_path / name, moving(1, 48, 8320), codec))


def test_frames_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxvision.data.video.track.MAX_FRAMES", 10)
    with pytest.raises(BadVideoError, match="has more than 10 frames"):
        VideoFile(write(tmp_path / "v.mp4", moving(20)))


def test_what_cannot_be_decoded_is_named(tmp_path, mp4):
    (tmp_path / "v.mp4").write_bytes(mp4.replace(b"avc1", b"xxxx"))
    with pytest.raises(BadVideoError, match="coded in a way that this FFmpeg cannot decode"):
        VideoFile(tmp_path / "v.mp4")


def test_names_that_are_not_utf8(tmp_path, mp4):
    (tmp_path / "v.mp4").write_bytes(mp4.replace(b"VideoHandler", b"Video\xff\xfe\xffdler"))
    assert VideoFile(tmp_path / "v.mp4").frames == 20


def test_special_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BadVideoError, match="not a file"):
        VideoFile(tmp_path / "pipe.mp4")
    (tmp_path / "v.mp4").symlink_to(tmp_path / "v.mp4")
    with pytest.raises(BadVideoError, match="no such file"):
        VideoFile(tmp_path / "v.mp4")


def test_a_bug_of_ours_is_no_bad_video(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", moving(5))

    def wrong(*_):
        raise ValueError("a bug")

    opened = VideoFile(path)
    monkeypatch.setattr("ctxvision.data.video.reading.decode", wrong)
    with pytest.raises(ValueError, match=r"^a bug$"):
        opened.read([0])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Small files of several containers, to be damaged."""
    folder = tmp_path_factory.mktemp("small")
    frames = moving(12, 32, 32)
    made = [("libx264", "mp4"), ("libx264", "mkv"), ("mpeg4", "avi"), ("mpeg2video", "ts"), ("flv", "flv")]
    made += [("wmv2", "wmv"), ("mpeg2video", "mpg"), ("gif", "gif")]
    files = []
    for codec, suffix in made:
        pixels = "rgb8" if codec == "gif" else "yuv420p"
        files.append(write(folder / f"v.{suffix}", frames, codec, rate=25, gop=6, pixels=pixels).read_bytes())
    return folder, files


PLACES = st.floats(0, 1, exclude_max=True)
FILL = st.sampled_from([b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\xff" * 8, b"\0" * 40])


@settings(
    max_examples=120, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 7), st.lists(st.tuples(PLACES, FILL), max_size=8), PLACES, st.booleans())
@example(0, [], 0.999, False)
def test_damaged_bytes_give_frames_or_a_reason(small, which, changes, cut, header):
    folder, files = small
    data = bytearray(files[which])
    span = min(len(data), 700) if header else len(data)
    for place, fill in changes:
        at = int(place * span)
        data[at : at + len(fill)] = fill
    if cut > 0.7:
        del data[int(cut * len(data)) :]
    path = folder / "damaged.bin"
    path.write_bytes(data)
    try:
        opened = VideoFile(path)
        read, reason = opened.read([0, opened.frames // 2, opened.frames - 1]), ""
    except BadVideoError as error:
        read, reason = None, str(error)
    assert (read is None) == bool(reason)
    assert read is None or len(read) == 3
    assert "\n" not in reason


def test_a_track_that_appears_late(tmp_path, monkeypatch):
    """PyAV raises IndexError where a stream of packets has a new track in its middle."""
    path = write(tmp_path / "v.ts", moving(5))

    def late(*_):
        raise IndexError("list index out of range")

    monkeypatch.setattr("av.container.InputContainer.demux", late, raising=True)
    with pytest.raises(BadVideoError, match="a track that begins later"):
        VideoFile(path)


def test_every_kind_of_bad_video_is_refused_without_reading(tmp_path):
    for name, _ in add_bad_videos(tmp_path):
        with pytest.raises(BadVideoError):
            VideoFile(tmp_path / name).read([0, 39])
