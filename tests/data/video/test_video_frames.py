"""A frame's number is its place when the file is decoded from its beginning, in every container and codec."""

from contextlib import ExitStack
from functools import partial

import av
import numpy as np
import pytest
from _videos import copy, decoded, moving, write, write_sound

from ctxvision.data.video import reading as video
from ctxvision.data.video import reading as video_index
from ctxvision.data.video.reading import BadVideoError, VideoFile
from ctxvision.data.video.track import decode

pytestmark = pytest.mark.slow

B_FRAMES = {"bf": "2"}
OPEN = {"x264-params": "open-gop=1:scenecut=0:bframes=3"}
REFRESHED = {"x264-params": "intra-refresh=1:bframes=0:keyint=16:scenecut=0"}  # its key frames are none
QUIET = {"x265-params": "log-level=0:keyint=12:open-gop=1:pools=1"}
WRITTEN = [
    *[
        ("libx264", suffix, {})
        for suffix in ("mp4", "mov", "3gp", "mkv", "avi", "ts", "m2ts", "flv", "h264", "mxf")
    ],
    *[("libx264", suffix, {"coding": OPEN}) for suffix in ("mp4", "mkv", "avi", "ts", "asf")],
    *[("libx264", suffix, {"coding": REFRESHED, "gop": 16}) for suffix in ("mp4", "mkv")],
    ("libx264", "mkv", {"coding": {"x264-params": "tff=1", "flags": "+ildct+ilme"}}),
    ("libx264", "mp4", {"gop": 1000, "coding": {"bf": "8"}}),
    ("libx264", "mp4", {"pixels": "yuv420p10le"}),
    ("libx264", "mp4", {"pixels": "gray"}),
    ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
    *[("libx265", suffix, {"coding": QUIET}) for suffix in ("mp4", "mkv", "ts", "hevc")],
    *[("mpeg4", suffix, {"coding": B_FRAMES}) for suffix in ("avi", "mp4", "mkv", "m4v", "3gp")],
    *[
        ("mpeg2video", suffix, {"coding": B_FRAMES, "rate": 25})
        for suffix in ("mpg", "ts", "avi", "vob", "m2v", "mkv")
    ],
    *[("libvpx", suffix, {"coding": {"auto-alt-ref": "1", "lag-in-frames": "16"}}) for suffix in ("webm", "ivf")],
    ("libvpx-vp9", "webm", {"coding": {"cpu-used": "8", "deadline": "realtime"}}),
    ("libsvtav1", "mp4", {"coding": {"preset": "12", "svtav1-params": "lp=1"}}),
    ("mjpeg", "avi", {"pixels": "yuvj420p"}),
    ("mjpeg", "mov", {"pixels": "yuvj420p"}),
    ("ffv1", "mkv", {"pixels": "yuva444p"}),
    ("prores", "mov", {"pixels": "yuv422p10le"}),
    *[("wmv2", suffix, {}) for suffix in ("wmv", "asf", "avi")],
    ("flv", "flv", {}),
    ("gif", "gif", {"pixels": "rgb8"}),
    ("apng", "apng", {"pixels": "rgb24"}),
    ("rawvideo", "y4m", {}),
]


def check(path):
    """Compare frames by number, alone and together, with sequential decoding; return the truth."""
    truth = decoded(path)
    opened = VideoFile(path)
    assert opened.frames == len(truth)
    last = len(truth) - 1
    for indices in ([last], [last // 2], [0, 0, last // 3, (last + 1) // 2, last], list(range(len(truth)))):
        for index, frame in zip(indices, VideoFile(path).read(indices), strict=True):
            assert np.array_equal(frame, truth[index]), (indices, index)
    return truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize(("codec", "suffix", "options"), WRITTEN)
def test_every_container_and_codec(tmp_path, codec, suffix, options):
    assert len(check(write(tmp_path / f"v.{suffix}", moving(40), codec, **{"rate": 25} | options))) == 40


@pytest.fixture(scope="module")
def sources(folder):
    """Videos to copy from."""
    return {
        "h264": write(folder / "h264.mp4", moving(60), rate=25),
        "open": write(folder / "open.mp4", moving(60), rate=25, coding=OPEN),
        "hevc": write(folder / "hevc.mp4", moving(60), "libx265", rate=25, coding=QUIET),
        "mpeg4": write(folder / "mpeg4.mp4", moving(60), "mpeg4", rate=25, coding=B_FRAMES),
        "mpeg2": write(folder / "mpeg2.ts", moving(60), "mpeg2video", rate=25, coding=B_FRAMES),
        "vp9": write(folder / "vp9.webm", moving(60), "libvpx-vp9", rate=25, coding={"deadline": "realtime"}),
    }


COPIED = [
    (source, suffix)
    for source in ("h264", "open", "hevc", "mpeg4", "mpeg2", "vp9")
    for suffix in ("mp4", "mkv", "avi", "ts")
    if (source, suffix) not in (("vp9", "ts"), ("hevc", "avi"))  # FFmpeg does not write them
]


@pytest.mark.parametrize(("source", "suffix"), COPIED)
@pytest.mark.parametrize("start", [0.0, 1.5])
def test_copied_without_decoding(tmp_path, sources, source, suffix, start):
    path = copy(sources[source], tmp_path / f"v.{suffix}", start)
    if not decoded(path):  # an open group needs parameters that came before
        with pytest.raises(BadVideoError, match="no frame that can be decoded"):
            VideoFile(path)
        return
    check(path)


def test_an_edit_list_is_no_truncation(tmp_path, sources):
    path = copy(sources["h264"], tmp_path / "v.mp4", 1.5)
    assert len(check(path)) == 22  # of 24 in the file: 1.5 seconds are 37.5 frames, and it begins at frame 36
    assert video_index.read_index(str(path)) is not None  # and such files are read by their index
    # an editor may leave whole groups of pictures in the file that the list cuts away
    path = copy(sources["h264"], tmp_path / "w.mp4", 1.5, seek=False)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 60
    assert len(check(path)) == 22


def test_healthy_files_are_not_decoded_as_a_whole(sources, monkeypatch):
    for name in ("h264", "open", "hevc", "vp9"):
        opened = VideoFile(sources[name])
        seen = []
        monkeypatch.setattr(video, "decode", partial(_noted, seen))
        opened.read([50])
        assert 0 < len(seen) <= 20, name


def _noted(seen, packets):
    for frame, damaged in decode(packets):
        seen.append(frame.pts)
        yield frame, damaged


def test_counted_once(tmp_path, sources, monkeypatch):
    path = copy(sources["mpeg4"], tmp_path / "v.avi")
    assert VideoFile(path).frames == 60
    monkeypatch.setattr(video_index, "decode", None)
    assert VideoFile(path).frames == 60


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "wmv", "ts"])
def test_variable_rate(tmp_path, suffix):
    times = np.cumsum(np.random.default_rng(0).integers(1, 5, 30)).tolist()
    codec = "wmv2" if suffix == "wmv" else "libx264"
    assert len(check(write(tmp_path / f"v.{suffix}", moving(30), codec, rate=25, times=times))) == 30


@pytest.mark.parametrize("start", [-20, 0, 75, 10**7])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_times_begin_anywhere(tmp_path, suffix, start):
    shift = 20 if (start, suffix) == (-20, "ts") else 0  # no negative times there
    path = write(tmp_path / f"v.{suffix}", moving(30), rate=25, times=[start + shift + i for i in range(30)])
    assert len(check(path)) == (10 if (start, suffix) == (-20, "mp4") else 30)


def test_wrong_times_are_noticed(tmp_path, sources):
    """Frames that come at other times than their packets say are counted, not looked up."""
    with av.open(str(sources["open"])) as old, av.open(str(tmp_path / "v.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts, packet.stream = packet.dts, stream
                new.mux(packet)
    check(tmp_path / "v.mkv")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "avi"), ("gif", "gif")]
)
def test_short_videos(tmp_path, count, codec, suffix):
    path = write(tmp_path / f"v.{suffix}", moving(count), codec, pixels="rgb8" if codec == "gif" else "yuv420p")
    assert len(check(path)) == count


def test_odd_sides(tmp_path):
    check(write(tmp_path / "v.mp4", moving(13, 47, 63), pixels="yuv444p"))
    check(write(tmp_path / "v.webm", moving(13, 47, 63), "libvpx-vp9"))


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5])
@pytest.mark.parametrize(("codec", "coding"), [("libx264", {}), ("libx264", OPEN), ("mpeg2video", B_FRAMES)])
def test_recordings_that_begin_between_key_frames(tmp_path, share, codec, coding):
    path = write(tmp_path / "v.ts", moving(60), codec, rate=25, coding=coding)
    data = path.read_bytes()
    path.write_bytes(data[int(len(data) * share) // 188 * 188 :])
    assert 12 <= len(check(path)) < 60


def join(path, sources, cover):
    """Put the first tracks of files into one file; that number ``cover`` becomes a cover picture."""
    with ExitStack() as stack:
        new = stack.enter_context(av.open(str(path), "w"))
        olds = [stack.enter_context(av.open(str(source))) for source in sources]
        tracks = [new.add_stream_from_template(old.streams[0]) for old in olds]
        tracks[cover].disposition = av.stream.Disposition.attached_pic
        for old, track in zip(olds, tracks, strict=True):
            for packet in old.demux(old.streams[0]):
                if packet.size:
                    packet.stream = track
                    new.mux(packet)
    return path


def test_of_several_tracks_the_first_moving_pictures_count(tmp_path):
    sound, cover = write_sound(tmp_path / "s.mp4"), tmp_path / "c.mov"
    write(cover, moving(1, 32, 32), "png", pixels="rgb24")
    small = write(tmp_path / "small.mp4", moving(20))
    both = join(tmp_path / "both.mp4", [sound, small, cover], 2)
    with av.open(str(both)) as container:
        assert [int(stream.disposition) >> 10 & 1 for stream in container.streams] == [0, 0, 1]
    assert np.array_equal(VideoFile(both).read(range(20)), np.stack(decoded(small)))
    with pytest.raises(BadVideoError, match="has no pictures, only a cover, audio"):
        VideoFile(join(tmp_path / "cover.mp4", [sound, cover], 1))


def test_the_end_of_a_stream_may_be_broken_off(tmp_path):
    for suffix, codec in (("ts", "mpeg2video"), ("mpg", "mpeg2video"), ("h264", "libx264"), ("flv", "flv")):
        path = write(tmp_path / f"v.{suffix}", moving(40), codec, rate=25)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        truth, opened = decoded(path), VideoFile(path)
        assert len(truth) - 3 <= opened.frames <= len(truth)
        assert np.array_equal(opened.read(range(opened.frames)), np.stack(truth[: opened.frames])), suffix


def test_trailing_bytes_do_not_matter(tmp_path):
    for suffix, codec in (
        ("mp4", "libx264"),
        ("avi", "mpeg4"),
        ("mkv", "libx264"),
        ("ts", "libx264"),
        ("gif", "gif"),
    ):
        path = write(tmp_path / f"v.{suffix}", moving(20), codec, pixels="rgb8" if codec == "gif" else "yuv420p")
        path.write_bytes(path.read_bytes() + b"\0garbage" * 300)
        assert len(check(path)) == 20


def test_a_damaged_frame_is_told_until_the_next_key_frame(tmp_path):
    path = write(tmp_path / "v.mkv", moving(60), "mpeg4", rate=25)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    opened, reasons = VideoFile(path), {}
    for index in range(opened.frames):
        try:
            opened.read([index])
        except BadVideoError as error:
            reasons[index] = error.reason
    assert reasons == {index: f"frame {index} is damaged" for index in reasons}
    bad, good = list(reasons), sorted(set(range(opened.frames)) - set(reasons))
    assert bad == list(range(bad[0], bad[-1] + 1))
    assert (bad[-1] + 1) % 12 == 0
    assert 0 < len(bad) <= 12
    truth = decoded(path)
    assert np.array_equal(opened.read(good), np.stack([truth[index] for index in good]))
