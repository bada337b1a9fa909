"""Decoding: the right frames of every format, upright, and a reason for everything that is no video."""

import os

import av
import numpy as np
import pytest
from _videos import add_bad_videos, noise, numbered, numbers, shades, turn, write

from ctxvision.data.error import DataError
from ctxvision.data.video.reading import BadVideoError, VideoFile
from ctxvision.data.video.source import VIDEO_SUFFIXES, list_video_files, list_videos
from ctxvision.data.video.track import FORMATS as READ
from ctxvision.data.video.writing import write_video

FORMATS = [
    ("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "ts"), ("mpeg4", "mp4"), ("mpeg4", "avi"),
    ("libvpx-vp9", "webm"),
]  # fmt: skip
INDICES = [0, 0, 3, 11, 12, 13, 25, 39]


@pytest.mark.parametrize(("codec", "suffix"), FORMATS)
@pytest.mark.parametrize("gop", [1, 12, 100])
def test_frames_by_number(tmp_path, codec, suffix, gop):
    video = VideoFile(write(tmp_path / f"v.{suffix}", numbered(40), codec, gop=gop))
    assert video.frames == 40
    for indices in (INDICES, [39], list(range(40))):
        read = video.read(indices)
        assert read.shape == (len(indices), 48, 64, 3)
        assert numbers(read) == indices


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_upright(tmp_path, degrees):
    frames = shades(3)
    frames[:, :24, :32] = 0  # dark at the top left
    path = turn(write(tmp_path / "v.mp4", frames), 48, degrees)
    read = VideoFile(path).read([2])[0]
    assert read.shape[:2] == ((48, 64) if degrees == 180 else (64, 48))
    corners = read[[8, 8, -8, -8], [8, -8, -8, 8]].mean(1)  # clockwise from the top left
    assert corners.argmin() == degrees // 90
    assert np.sort(corners)[1] > 150


def test_sound_beside_pictures_does_not_matter(tmp_path):
    assert VideoFile(write(tmp_path / "v.mp4", shades(5), audio=True)).read([4]).shape == (1, 48, 64, 3)


def test_suffix_does_not_matter(tmp_path):
    path = write(tmp_path / "v.mkv", shades(5)).rename(tmp_path / "v.mp4")
    assert VideoFile(path).frames == 5


def read_all(path):
    video = VideoFile(path)
    return video.read(range(0, video.frames, 3))


def test_every_bad_video_has_a_reason(tmp_path):
    for name, part in add_bad_videos(tmp_path):
        with pytest.raises(BadVideoError) as error:
            read_all(tmp_path / name)
        assert part in error.value.reason, name
        assert error.value.path == str(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path) not in error.value.reason


@pytest.mark.parametrize(("name", "reason"), [("missing.mp4", "no such file"), (".", "is a folder")])
def test_what_is_not_a_file(tmp_path, name, reason):
    with pytest.raises(BadVideoError, match=reason):
        VideoFile(tmp_path / name)


def test_list(tmp_path):
    (tmp_path / "a" / ".hidden").mkdir(parents=True)
    for name in ("b.MP4", "a/a.webm", "a/.c.mp4", "a/.hidden/d.mp4", "a/e.txt", "a/f.txt", "a/g.jpg", "a/README"):
        (tmp_path / name).write_bytes(b"")
    found = list_video_files(tmp_path)
    assert found.files == list_videos(tmp_path) == [str(tmp_path / "a" / "a.webm"), str(tmp_path / "b.MP4")]
    assert found.summary() == "left out: 2 .txt, 1 .jpg, 1 without a suffix"
    assert list_video_files(tmp_path / "a" / ".hidden").summary() == ""


def test_list_in_strange_folders(tmp_path, monkeypatch):
    """Loops of links end, and folders deeper than a path may be long are counted, not fatal."""
    (tmp_path / "v.mp4").write_bytes(b"")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        for _ in range(40):
            os.mkdir("d" * 120)
            os.chdir("d" * 120)
        found = list_video_files(tmp_path)
        for _ in range(40):  # nothing else can remove them
            os.chdir("..")
            os.rmdir("d" * 120)
    assert [path[len(str(tmp_path)) + 1 :] for path in found.files] == ["v.mp4"]
    assert sum(found.left_out.values()) == 4
    for kind in ("folders that cannot be opened", "links to folders", "links to nothing", "cannot be looked at"):
        assert kind in found.summary()


def test_links_between_folders_do_not_multiply(tmp_path):
    """Twelve folders that all link to each other make 12! paths."""
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        for other in set(range(12)) - {number}:
            (tmp_path / str(number) / f"to{other}").symlink_to(tmp_path / str(other))
    (tmp_path / "0" / "v.mp4").write_bytes(b"")
    assert 1 <= len(list_videos(tmp_path)) < 20


def test_suffixes_are_those_of_the_formats():
    """What FFmpeg says of the formats that are read, but for sound and pictures."""
    others = {"ism", "isma", "m4a", "m4b", "mj2", "psp", "avif", "heic", "heif", "wma", "mka", "mks", "mpo", "ra"}
    known = set().union(*(av.ContainerFormat(name).extensions for name in READ if name in av.formats_available))
    missing = {f".{name}" for name in known - others} - VIDEO_SUFFIXES
    assert missing <= {".266", ".h266", ".vvc", ".dif", ".h26l", ".rcv"}


@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_what_is_written_can_be_read(tmp_path, suffix, size):
    frames = shades(6, *size)
    write_video(tmp_path / f"v{suffix}", frames)
    read = VideoFile(tmp_path / f"v{suffix}").read(range(6))
    assert read.shape == (6, 32, 48, 3)  # even sides
    assert np.abs(read[:, : size[0], : size[1]].astype(int) - frames).max() < 6


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_moving_pictures(tmp_path, suffix):
    from PIL import Image

    write_video(tmp_path / f"v{suffix}", shades(6), rate=4)
    with Image.open(tmp_path / f"v{suffix}") as image:
        assert image.n_frames == 6
        image.seek(5)
        image.load()
        assert image.info["duration"] == 250
        assert abs(int(np.asarray(image.convert("RGB"))[0, 0, 0]) - 230) < 3


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("v.mp4", noise(0), "needs frames"),
        ("v.mp4", noise(2).astype(np.float32), "needs frames"),
        ("v.xyz", noise(2), "cannot be made a video"),
        ("none/v.mp4", noise(2), "there is no folder"),
    ],
)
def test_nothing_half_written(tmp_path, name, frames, message):
    with pytest.raises(DataError, match=message):
        write_video(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"before")

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(DataError, match="no space left on device"):
        write_video(path, shades(3))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
