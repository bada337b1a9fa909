"""Files and folders that appear whole or not at all.

What is written lies beside its place under a hidden name, is put on the disk, and is then moved to its place in
one step: nobody ever sees half of it, and what was there before is lost only to what is complete.
"""

import contextlib
import difflib
import errno
import glob
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


class WriteError(OSError):
    """A file or folder cannot be written; the message is one line that names it and says why."""

    def __str__(self) -> str:
        folder = os.path.dirname(self.filename) or "."
        missing = self.errno == errno.ENOENT and not os.path.isdir(folder)
        why = f"there is no folder {folder}" if missing else reason(self)
        return f"{self.filename}: cannot be written ({why})"


def near_path(path: str | os.PathLike[str]) -> str:
    """Return a hint to a file or folder with a name like that of a path that does not exist; empty if none is."""
    wanted = Path(path)
    above = next((folder for folder in wanted.parents if folder.is_dir()), None)
    if above is None or wanted.exists():
        return ""
    name, *rest = wanted.relative_to(above).parts
    with contextlib.suppress(OSError):
        there = [entry for entry in os.listdir(above) if entry.startswith(".") == name.startswith(".")]
        near = difflib.get_close_matches(name, there, n=1)
        if near and Path(above, near[0], *rest).exists():
            return f", did you mean {Path(above, near[0], *rest)}?"
    return ""


def reason(error: OSError) -> str:
    """Say why the system refused, without the name of the file."""
    return (error.strerror or str(error)).lower()


def full_disk(error: BaseException) -> OSError | None:
    """Return the system's error of a full disk that an error stems from, if it does.

    Libraries that write in C++, and compilers, report a full disk as an error of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if isinstance(cause, OSError) and cause.errno == number:
                return cause
            if os.strerror(number).lower() in str(cause).lower():
                return OSError(number, os.strerror(number))
        cause = cause.__cause__ or cause.__context__
    return None


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], *, ready: Callable[[Path], None] | None = None, follow_links: bool = True
) -> Iterator[Path]:
    """Yield the path of an empty file to write to, which is moved to ``path`` if nothing fails in the block.

    The new file has the permissions of the one that it replaces, else those that the umask leaves. What is there
    and is no regular file, such as a pipe or a device, is written to and stays.

    Args:
        path: The path of the file, in a folder that exists.
        ready: A function that is called with the complete file before it is moved, and refuses it by an exception.
        follow_links: Whether a link at ``path`` stays and what it points to is replaced; else the link itself is
            replaced.

    Raises:
        WriteError: The file cannot be written there. Errors of the block about other files are raised as they are.
    """
    path = Path(path)
    with _explained(path):
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder, path.name)
                yield part
                path.write_bytes(part.read_bytes())
            return
        target = path.resolve() if follow_links else path
        part = _part(target)
        try:
            part.open("xb").close()  # with the permissions that the umask leaves
            yield part
            _sync(part)
            if ready:
                ready(part)
            if mode is not None:
                part.chmod(mode & 0o777)
            os.replace(part, target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)  # two names of one file do not replace each other
        _sync_folder(target.parent)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file by `replacing`.

    Args:
        path: The path of the file, in a folder that exists.
        content: The bytes, or a text, which is written as UTF-8; file names in it that are not valid UTF-8 become
            the bytes they are.

    Raises:
        WriteError: The file cannot be written there.
    """
    with replacing(path) as part:
        part.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], *, last: str | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill, which is moved to ``path`` if nothing fails in the block.

    Args:
        path: The path of the folder; neither it nor the folders above it need exist. Where it is a link, what it
            points to is replaced.
        last: The entry of the folder that is moved last, as the sign that all is there. If given, a folder that is
            there stays, and only entries of the same names are replaced; else it is replaced in one step.

    Raises:
        WriteError: The folder cannot be written there. Errors of the block about other files are raised as they
            are.
    """
    path = Path(path)
    with _explained(path):
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        try:
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    _sync(file)
            if last is None or not target.exists():
                if target.is_dir():
                    part.chmod(target.stat().st_mode & 0o777)
                _move(part, target)
            else:
                for entry in sorted(part.iterdir(), key=lambda entry: entry.name == last):
                    _move(entry, target / entry.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _sync_folder(target.parent)


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Write files into a folder by `replacing_folder`; what else lies there stays.

    Args:
        path: The path of the folder, which is made if it does not exist.
        files: The contents of the files, at least one, by path in the folder. All that lies in subfolders of the
            same names is replaced, and the entry of the last file is moved last.

    Raises:
        WriteError: The files cannot be written there.
    """
    with replacing_folder(path, last=list(files)[-1].split("/")[0]) as part:
        for name, data in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(data)


def remove_parts(folder: Path, stem: str | None = None, *, idle: float = 0.0) -> None:
    """Remove what killed processes have left half written in a folder.

    Args:
        folder: A folder in which nobody is writing, or not under this stem.
        stem: The name without suffix of the file that was being written; by default any.
        idle: The number of seconds for which nothing was written to what is removed, where others may be writing.
    """
    for part in folder.glob(f".{'*' if stem is None else glob.escape(stem[:_STEM])}.*part*"):
        with contextlib.suppress(OSError):
            if part.is_file() and time.time() - part.stat().st_mtime >= idle:
                part.unlink()


def keep_aside(path: Path) -> str:
    """Give a damaged file, or what else has its name, the name ``NAME-damaged-1.SUFFIX`` or the next that is free.

    Returns:
        The words that tell about it, to be added to a sentence: an empty text where there is no such file.
    """
    if not os.path.lexists(path):
        return ""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")):
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        return f", and cannot be kept as {aside} ({reason(error)})"
    return f", and is kept as {aside}"


_STEM = 40  # characters of a name, which may be as long as names can be


def _part(target: Path) -> Path:
    """Return a free name beside a path: hidden, and with its suffix, by which some libraries know a format."""
    return target.with_name(f".{target.stem[:_STEM]}.{secrets.token_hex(4)}.part{target.suffix[:_STEM]}")


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _move(new: Path, target: Path) -> None:
    """Move a file or folder to a place where there may be another."""
    if not new.is_dir() or not target.exists():
        os.replace(new, target)
        return
    # a folder cannot be moved over another that has files
    old = new.with_name(f"{new.name}.old")
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of the block, in place of the hidden name; those about other files stay."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        target = Path(os.path.realpath(path))
        if isinstance(error.filename, str | bytes):
            about = Path(os.path.realpath(os.fsdecode(error.filename)))
            parts = [p for p in (about, *about.parents) if p.parent == target.parent and ".part" in p.name]
            if not parts and not target.is_relative_to(about):
                raise
        raise WriteError(error.errno, error.strerror or str(error), os.fspath(path)) from error
