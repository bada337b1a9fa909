"""Files of a user: found below a folder, and opened, whatever lies in their place."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

_MOST_VISITS = 8  # of one folder that many links lead to; links between n folders make n! paths
_MOST_KINDS = 5  # that a note names
_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass
class Listing:
    """The files below a folder, and what else lies there.

    Attributes:
        files: The paths of the files, which begin with the folder, sorted.
        left_out: The number of other entries by kind: by suffix, or by what is wrong with them.
    """

    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Listing") -> list[str]:
        """Count what another listing left out together with this one's, and return the other's files."""
        self.left_out += other.left_out
        return other.files

    def summary(self, hints: Mapping[str, str] | None = None) -> str:
        """Say in one line what was left out, the most frequent first; empty if nothing was.

        Args:
            hints: The advice about entries of a kind, by suffix.
        """
        kinds = self.left_out.most_common()
        hints = hints or {}
        # what can be helped is named however rare it is
        kinds.sort(key=lambda kind: (kind[0] not in hints, -kind[1], kind[0]))
        shown = [
            f"{count} {kind}" + (f" ({hints[kind]})" if kind in hints else "")
            for kind, count in kinds[:_MOST_KINDS]
        ]
        if len(kinds) > _MOST_KINDS:
            shown.append(f"{sum(count for _, count in kinds[_MOST_KINDS:])} others")
        return f"left out: {', '.join(shown)}" if shown else ""


def list_below(folder: str | os.PathLike[str], wanted: Callable[[str], bool]) -> Listing:
    """List the files below a folder whose names are wanted.

    Hidden files and folders are passed over. Links are followed, but not back into a folder that they lie in, and
    not more than a few times into the same folder. What cannot be opened is counted.

    Args:
        folder: The folder to look through, as deep as the system allows.
        wanted: The function that tells by the name of a file whether it is wanted.

    Raises:
        OSError: The folder itself cannot be opened.
    """
    found = Listing()
    visits: Counter[Any] = Counter()
    waiting: list[tuple[str, Any]] = [(os.fspath(folder), None)]
    while waiting:
        path, above = waiting.pop()
        try:
            status = os.stat(path)
            me = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
            if visits[me] >= _MOST_VISITS or _is_among(me, above):
                found.left_out["links to folders that are listed already"] += 1
                continue
            visits[me] += 1
            files, folders = list_folder(path, wanted, found.left_out)
        except OSError as error:
            if above is None:
                raise
            found.left_out[f"folders that cannot be opened: {in_words(error)}"] += 1
            continue
        found.files += files
        waiting += [(inner, (me, above)) for inner in reversed(folders)]
    found.files.sort()
    return found


def list_folder(
    folder: str | os.PathLike[str], wanted: Callable[[str], bool], left_out: Counter[str] | None = None
) -> tuple[list[str], list[str]]:
    """List the wanted files and the folders right in a folder, sorted; hidden ones are passed over.

    Args:
        folder: The folder to list.
        wanted: The function that tells by the name of a file whether it is wanted.
        left_out: The counter of the entries that are neither; it is updated.

    Raises:
        OSError: The folder cannot be opened.
    """
    left_out = Counter() if left_out is None else left_out
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    if wanted(entry.name):
                        files.append(entry.path)
                    else:
                        left_out[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
                else:
                    left_out[
                        "links to nothing" if entry.is_symlink() and not os.path.exists(entry.path) else "no files"
                    ] += 1
            except OSError as error:  # of a link to itself, among others
                left_out[f"that cannot be looked at: {in_words(error)}"] += 1
    return sorted(files), sorted(folders)


def subfolders(folder: str | os.PathLike[str]) -> list[str]:
    """List the names of the folders in a folder, sorted, without hidden ones; none of what cannot be opened."""
    try:
        return [os.path.basename(path) for path in list_folder(folder, lambda _: False)[1]]
    except OSError:
        return []


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading, and nothing that only looks like one: a pipe would wait for ever.

    Raises:
        OSError: There is no such file, it cannot be opened, or it is a folder, a pipe, a socket or a device.
        ValueError: No file can have this name.
    """
    # asked before it is opened: to open a device may move something
    _require_regular(path, os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a whole file that a person has written, such as settings or names.

    Args:
        path: The path of the file.
        most: The largest size in bytes.

    Raises:
        OSError: The file cannot be opened, see `open_regular`.
        ValueError: The file is larger than ``most``.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"larger than {most / 1e6:g} MB")
    return data


def in_words(error: Exception) -> str:
    """Say what kept a file from being read, in one line without its path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text ({error.reason})"
    return " ".join(str(error).split()) or type(error).__name__


def _require_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file", os.fspath(path)
        )


def _is_among(folder: Any, above: Any) -> bool:
    while above is not None:
        known, above = above
        if known == folder:
            return True
    return False


def suffix_in(suffixes: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a name ends in one of these suffixes, in small or capital letters."""
    known = frozenset(suffixes)
    return lambda name: os.path.splitext(name)[1].lower() in known
