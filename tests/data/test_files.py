"""What lies in the place of a file: links in circles, pipes, devices, folders without end, or closed ones."""

import json
import os
import signal
import socket
import subprocess

import _coco
import pytest

from _pictures import make_folder, picture
from ctxvision.data import BadImageError, DataError, find_images, list_images, read_image
from ctxvision.data.detection.coco_reading import read_coco
from ctxvision.data.files import list_below, open_regular, read_regular
from ctxvision.data.images.shards import open_member
from ctxvision.data.segmentation.source import read_class_names, scan_pixel_folder
from ctxvision.data.table import read_table
from ctxvision.data.video.source import list_videos
from ctxvision.training.settings import SettingsFileError, read_settings_file


@pytest.fixture(autouse=True)
def _no_hang():
    """A pipe would wait for ever."""

    def give_up(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


STRANGE = ("pipe", "socket", "device", "self", "dangling", "folder")


def make_strange(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listening:  # their names may have 100 letters
            listening.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "self": path, "dangling": path.parent / "nothing"}[kind])


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_one_reason_wherever_a_file_is_read(tmp_path, kind):
    for name in ("a.jpg", "a.csv", "a.tar", "a.json", "a.yaml", "classes.txt"):
        make_strange(kind, tmp_path / name)
    with pytest.raises(BadImageError) as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.reason
    for read in (
        lambda: read_table(tmp_path / "a.csv"),
        lambda: find_images(str(tmp_path / "a.tar")),
        lambda: read_coco(tmp_path / "a.json", tmp_path),
        lambda: read_class_names(tmp_path / "classes.txt"),
    ):
        with pytest.raises(DataError, match=rf"{tmp_path}/\S+: "):
            read()
    with pytest.raises(OSError):  # noqa: PT011 - several kinds
        open_member(f"{tmp_path}/a.tar::b.png@0+9")
    with pytest.raises((OSError, SettingsFileError)):
        read_settings_file(tmp_path / "a.yaml")


def test_strange_entries_are_counted_and_cost_no_other(tmp_path):
    make_folder(tmp_path, {"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 1})
    for kind in STRANGE:
        make_strange(kind, tmp_path / "train" / "cat" / f"{kind}.jpg")
    (tmp_path / "train" / "loop").symlink_to("loop")  # among the class folders
    (tmp_path / "train" / "dog" / "a.heic").write_bytes(b"x")
    (tmp_path / "train" / "dog" / "README").write_text("x")
    found = find_images(tmp_path)
    assert len(found.train) == 6
    note = next(note for note in found.notes if "left out" in note)
    for part in (
        "1 .heic (needs the package pillow-heif)",
        "1 without a suffix",
        "1 links to nothing",
        "3 no files",
    ):
        assert part in note
    assert "too many levels of symbolic links" in note


def test_links_between_folders_end(tmp_path):
    folders = [tmp_path / f"{i}" for i in range(7)]
    for folder in folders:
        folder.mkdir()
        picture().save(folder / "a.png")
    for folder in folders:
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    found = list_images(tmp_path)  # 7! paths lead through them
    assert {os.path.realpath(path) for path in found} == {f"{folder}/a.png" for folder in folders}
    assert len(found) <= 7 * 8


@pytest.fixture
def deep(tmp_path):
    """More folders within folders than a path has room for, with files at the depths of 1200 and 2090."""
    here = os.open(tmp_path, os.O_RDONLY)
    for depth in range(2100):
        for name in ("a.png", "a.mp4") if depth in (1200, 2090) else ():
            os.close(os.open(name, os.O_CREAT, dir_fd=here))
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # Python's own cannot


@pytest.mark.slow
def test_folders_without_end(deep):
    found = list_below(deep, lambda name: name == "a.png")
    assert [path.count("/d") for path in found.files] == [1200]
    assert found.left_out["folders that cannot be opened: file name too long"] == 1
    assert len(list_images(deep)) == len(list_videos(deep)) == 1


def test_folders_and_files_that_may_not_be_read(tmp_path, monkeypatch):
    make_folder(tmp_path, {"cat": 3, "dog/closed": 1, "dog": 2})
    original = os.scandir

    def scandir(path):  # permissions do not bind root
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_images(tmp_path)
    assert len(found.train) + len(found.val) == 5
    assert any("1 folders that cannot be opened: permission denied" in note for note in found.notes)
    with pytest.raises(DataError, match="permission denied"):
        find_images(tmp_path / "dog" / "closed")


def test_masks_and_annotations_beside_strange_entries(tmp_path):
    make_folder(tmp_path, {"images": 4, "masks": 4})
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for folder in ("images", "masks"):
        make_strange("self", tmp_path / folder / "self.png")
        make_strange("pipe", tmp_path / folder / "pipe.png")
    found = scan_pixel_folder(tmp_path)
    assert len(found.train) + len(found.val) == 4
    assert any("2 no files" in note for note in found.notes)

    root = _coco.write(tmp_path / "coco")
    make_strange("self", root / "train" / "self.png")
    content = _coco.content()
    for name in ("self.png", "\0.png", "\ud800.png", "a" * 300 + ".png"):
        content["images"].append(content["images"][0] | {"id": name, "file_name": name})
    (root / "a.json").write_text(json.dumps(content))
    assert len(read_coco(root / "a.json", root / "train").images) == 4


def test_a_file_that_vanishes_and_names_that_are_not_text(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    picture().save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", name)
    (path,) = list_images(tmp_path)
    assert read_image(path).size == (24, 20)
    os.unlink(path)
    with pytest.raises(BadImageError, match="no such file"):
        read_image(path)
    with pytest.raises(BadImageError, match="null"):
        read_image("a\0.png")


def test_only_so_much_is_read(tmp_path):
    (tmp_path / "a").write_bytes(bytes(101))
    assert len(read_regular(tmp_path / "a", 101)) == 101
    with pytest.raises(ValueError, match=r"larger than 0\.0001 MB"):
        read_regular(tmp_path / "a", 100)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
