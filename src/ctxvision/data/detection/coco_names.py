"""The image files that an annotation file means, however the tool that wrote it spells their names."""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

# where exports keep images beside their annotation file: Label Studio and CVAT, FiftyOne, labelme
_FOLDERS = ("", "images", "data", "JPEGImages")
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # Label Studio's mark of an upload


class ImageFiles:
    """Finds listed images below a folder; reads every folder once instead of asking for every file.

    A name that is a path below the folder is taken as it is. Others are looked for in the spellings that exports
    are known for: backslashes, URLs and their escapes, folders of another machine before the part that is here,
    an upload's prefix, other case or composition of accents. No spelling leads out of the folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, set[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def has(self, name: str) -> bool:
        """Tell whether this very path is a file below the folder."""
        folder, _, file = name.rpartition("/")
        return file in self._listed(folder)

    def find(self, name: str) -> str | None:
        """Return the path below the folder of what is listed under another spelling; ``None`` if there is none."""
        for parts in _spellings(name):
            for start in range(len(parts)):
                *folders, file = parts[start:]
                for before in _FOLDERS:
                    folder = "/".join([before, *folders] if before else folders)
                    found = self._in_folder(folder, file)
                    if found:
                        return f"{folder}/{found}" if folder else found
        return None

    def example(self) -> str:
        """Say what the folder holds, for the one who looks for a file there."""
        names = sorted(self._listed(""))
        return f"which holds {names[0]!r} and {len(names) - 1} other files" if names else "which holds no files"

    def _in_folder(self, folder: str, file: str) -> str | None:
        if file in self._listed(folder):
            return file
        if folder not in self._alike:
            alike: dict[str, list[str]] = {}
            for name in self._listed(folder):
                alike.setdefault(_folded(name), []).append(name)
            self._alike[folder] = alike
        same = self._alike[folder].get(_folded(file), [])
        return same[0] if len(same) == 1 else None  # of two that differ in case alone, neither is meant for sure

    def _listed(self, folder: str) -> set[str]:
        if folder not in self._names:
            self._names[folder] = set()
            with contextlib.suppress(OSError, ValueError), os.scandir(self.root / folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # of a link to itself: the others are good
                        if entry.is_file():
                            self._names[folder].add(entry.name)
        return self._names[folder]


def _spellings(name: str) -> Iterator[list[str]]:
    """List what a name may mean as the parts of a path, the likeliest first."""
    texts = [name]
    if "?d=" in name:  # Label Studio's local files
        texts.append(name.partition("?d=")[2])
    elif "://" in name:
        try:
            texts = [urlsplit(name).path]
        except ValueError:  # "http://[" and the like
            return
    texts += [unquote(text) for text in texts if "%" in text]
    for text in texts:
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if parts:
            yield parts
            if _UPLOAD.match(parts[-1]):
                yield [*parts[:-1], parts[-1][9:]]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
