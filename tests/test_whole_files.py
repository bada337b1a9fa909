"""Files and folders appear whole or not at all, and errors name them."""

import errno
import os
import stat
import threading

import pytest

from ctxvision import files
from ctxvision.files import (
    WriteError,
    full_disk,
    keep_aside,
    remove_parts,
    replacing,
    replacing_folder,
    write_folder,
    write_whole,
)

FULL = OSError(errno.ENOSPC, "No space left on device")
QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
SEVERAL = {f"figures/{n}.png": bytes(10) for n in range(3)} | {"new.txt": b"n", "mark.json": b"{}"}


def contents(folder):
    """What lies below a folder, and when it was changed."""
    return {
        p.relative_to(folder): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")
    }


def failing(monkeypatch, where, stop, call=1):
    """Let a function of the system fail at a call of it."""
    calls, original = [], getattr(os, where)

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise stop
        return original(*args, **kwargs)

    monkeypatch.setattr(os, where, fail)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("where", ["fsync", "replace", "chmod", "body"])
@pytest.mark.parametrize("stop", [FULL, KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, where, stop, there):
    path = tmp_path / "a.onnx"
    if there:
        path.write_bytes(b"old")
    before = contents(tmp_path)
    if where == "chmod" and not there:
        pytest.skip("a new file has the permissions that it is made with")
    if where != "body":
        failing(monkeypatch, where, stop)

    def write():
        with replacing(path) as part:
            part.write_bytes(b"half")
            if where == "body":
                raise stop

    with pytest.raises(KeyboardInterrupt if stop is not FULL else WriteError) as caught:
        write()
    assert contents(tmp_path) == before
    if stop is FULL:
        assert str(caught.value) == f"{path}: cannot be written (no space left on device)"
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))


def caused(error, by=None, context=None):
    error.__cause__, error.__context__ = by, context
    return error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FULL, errno.ENOSPC),
        (caused(RuntimeError("unexpected pos 8384 vs 8336"), by=FULL), errno.ENOSPC),
        (caused(ValueError("a"), context=caused(RuntimeError("b"), context=QUOTA)), errno.EDQUOT),
        (RuntimeError("C++ compile error\ncc1plus: error writing to a.s: No space left on device"), errno.ENOSPC),
        (RuntimeError("no C++ compiler"), None),
        (caused(RuntimeError("a"), context=PermissionError(errno.EACCES, "Permission denied")), None),
    ],
)
def test_a_full_disk_is_found_behind_other_errors(error, number):
    found = full_disk(error)
    assert found is None if number is None else found.errno == number


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_kept_and_new_files_have_those_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "new", "a")
        write_folder(tmp_path / "folder", {"x/y": b"1"})
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o640)
        write_whole(tmp_path / "old", "a")
        with replacing_folder(tmp_path / "folder") as part:
            (part / "z").touch()
        (tmp_path / "folder").chmod(0o711)
        with replacing_folder(tmp_path / "folder") as part:
            (part / "z").touch()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"new": 0o666 & ~mask, "old": 0o640, "folder": 0o711, "z": 0o666 & ~mask}


def test_text_and_long_names(tmp_path):
    path = tmp_path / ("猫" * 82 + ".csv")
    write_whole(path, "é\udcff\n")
    assert path.read_bytes() == b"\xc3\xa9\xff\n"
    (tmp_path / ("a." + "b" * 250)).touch()
    write_whole(tmp_path / ("a." + "b" * 250), b"x")
    write_folder(tmp_path / ("d" * 250), {"a": b"x"})
    assert len(os.listdir(tmp_path)) == 3


def test_links_stay_links_unless_told_otherwise(tmp_path):
    real, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    real.parent.mkdir()
    link.symlink_to(real)  # whose target need not exist
    for text in ("one", "two"):
        write_whole(link, text)
        assert (link.is_symlink(), real.read_text()) == (True, text)
    with replacing(link, follow_links=False) as part:
        part.write_text("three")
    assert (link.is_symlink(), link.read_text(), real.read_text()) == (False, "three", "two")
    folder = tmp_path / "folder"
    folder.symlink_to(real.parent)
    write_folder(folder, {"b.txt": b"b"})
    assert folder.is_symlink()
    assert sorted(os.listdir(real.parent)) == ["a.txt", "b.txt"]


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, "through")
    reader.join(5)
    assert got == [b"through"]
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("path", "why"),
    [("none/a", "there is no folder none"), ("folder", "is a directory"), ("file/a", "not a directory")],
)
def test_errors_name_the_file_as_it_was_named(tmp_path, monkeypatch, path, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as caught:
        write_whole(path, "x")
    assert str(caught.value) == f"{path}: cannot be written ({why})"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("make", [replacing, replacing_folder])
def test_errors_about_other_files_are_not_about_this_one(tmp_path, make):
    with pytest.raises(FileNotFoundError), make(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert os.listdir(tmp_path) == []


def test_what_is_refused_does_not_appear(tmp_path):
    def refuse(part):
        assert part.read_bytes() == b"x"
        raise OSError("does not read back")

    with (
        pytest.raises(WriteError, match=r"a.txt: cannot be written \(does not read back\)$"),
        replacing(tmp_path / "a.txt", ready=refuse) as part,
    ):
        part.write_bytes(b"x")
    assert os.listdir(tmp_path) == []


def test_libraries_see_the_suffix(tmp_path):
    with replacing(tmp_path / "a.pt2") as part:
        assert (part.suffix, part.parent, part.name[0]) == (".pt2", tmp_path, ".")


@pytest.mark.parametrize("stop", [FULL, KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 3, 5])
def test_an_interrupted_folder_leaves_what_was_there(tmp_path, monkeypatch, stop, call):
    old = tmp_path / "old"
    (old / "figures").mkdir(parents=True)
    (old / "figures" / "9.png").write_bytes(b"9")
    (old / "mark.json").write_bytes(b"old")
    before = contents(tmp_path)
    for out in (old, tmp_path / "new"):
        with monkeypatch.context() as patch:
            failing(patch, "fsync", stop, call)
            with pytest.raises(KeyboardInterrupt if stop is not FULL else WriteError):
                write_folder(out, SEVERAL)
    assert contents(tmp_path) == before


def test_a_folder_comes_back_where_another_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "a").write_bytes(b"old")
    before = contents(tmp_path)
    failing(monkeypatch, "replace", FULL, 2)
    with pytest.raises(WriteError), replacing_folder(tmp_path / "net") as part:
        (part / "a").write_bytes(b"new")
    assert contents(tmp_path) == before


def test_others_in_a_folder_stay_and_the_mark_comes_last(tmp_path, monkeypatch):
    (tmp_path / "out" / "figures").mkdir(parents=True)
    for name in ("mine.txt", "figures/9.png", "mark.json"):
        (tmp_path / "out" / name).write_bytes(b"old")
    moved, original = [], files._move
    monkeypatch.setattr(files, "_move", lambda new, target: (moved.append(target.name), original(new, target)))
    write_folder(tmp_path / "out", SEVERAL)
    assert moved[-1] == "mark.json"
    found = {str(path): data for path, (_, data) in contents(tmp_path / "out").items() if data}
    assert found == SEVERAL | {"mine.txt": b"old"}
    assert os.listdir(tmp_path) == ["out"]
    with replacing_folder(tmp_path / "out") as part:
        (part / "a").write_bytes(b"a")
    assert os.listdir(tmp_path / "out") == ["a"]


def test_folders_above_are_made_and_a_file_is_no_folder(tmp_path):
    write_folder(tmp_path / "a" / "b", {"c/d": b"1"})
    assert (tmp_path / "a" / "b" / "c" / "d").read_bytes() == b"1"
    with pytest.raises(WriteError, match=r"d/e: cannot be written \("):
        write_folder(tmp_path / "a" / "b" / "c" / "d" / "e", {"f": b"1"})


def test_what_killed_processes_left_is_removed(tmp_path):
    left = [tmp_path / ".a[1].0.part.tar", tmp_path / ".b.0.part.tar", tmp_path / ".last.ckpt.part"]
    (tmp_path / "part.part").touch()
    (tmp_path / ".x.y.part").mkdir()
    for file in left:
        file.touch()
    remove_parts(tmp_path, "a[1]")
    assert [file.exists() for file in left] == [False, True, True]
    remove_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".x.y.part", "part.part"]


def test_damaged_files_are_kept_aside(tmp_path):
    path = tmp_path / "a.csv"
    assert keep_aside(path) == ""
    for number in (1, 2):
        path.touch()
        assert keep_aside(path) == f", and is kept as {tmp_path / f'a-damaged-{number}.csv'}"
    path.symlink_to(tmp_path / "nowhere")
    assert "a-damaged-3.csv" in keep_aside(path)
    assert not path.is_symlink()


def test_a_second_name_of_one_file_leaves_nothing_behind(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    with replacing(tmp_path / "b") as part:
        part.unlink()
        os.link(tmp_path / "a", part)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
