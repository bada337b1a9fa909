"""Where a folder in COCO's layout, or in that of a tool's export, keeps its annotation files and images."""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ctxvision.data.error import DataError
from ctxvision.data.images.source import TRAIN_FOLDERS, VAL_FOLDERS, part_of

_PARTS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test", "testing")}
# where exports keep images beside their annotation file: Label Studio and CVAT, FiftyOne, labelme
_FOLDERS = ("", "images", "data", "JPEGImages")
_ALIKE = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # Label Studio's mark of an upload


class CocoPart(NamedTuple):
    """An annotation file and the folder that its file names begin in."""

    file: str
    images: str


def find_parts(root: Path, options: Mapping[str, str]) -> CocoPart | dict[str, CocoPart | DataError]:
    """Find the annotation files of a folder.

    - COCO and CVAT: ``annotations/instances_NAME.json``, with the images in ``NAME/``, ``images/NAME/``,
      ``images/`` or ``JPEGImages/``; NAME ``val`` may be ``valid`` there, as ``train`` may be ``training``;
    - Roboflow: one ``.json`` each in ``train/`` and ``valid/`` (or ``val``, ``validation``, ``test``), beside the
      images;
    - Label Studio, FiftyOne, labelme: one ``.json`` in the folder itself, the images beside or below it.

    Args:
        root: The path of the folder.
        options: The options of DATA; ``train`` and ``val`` name the parts of COCO's layout.

    Returns:
        The parts ``train`` and ``val``, or why there is none; or one part that is to be split.

    Raises:
        DataError: The folder has none of these layouts.
    """
    if (root / "annotations").is_dir():
        return _of_annotations(root, options)
    train, val = _first_part(root, TRAIN_FOLDERS), _first_part(root, VAL_FOLDERS)
    if train and val:
        return {"train": train, "val": val}
    alone = train or val or _beside(root)
    if alone:
        return alone
    raise DataError(
        f"{root}: not in COCO's layout, it has no folder annotations, no train/*.json and no single .json; for a "
        "single annotation file write IMAGES:ANNOTATIONS.json"
    )


def _first_part(root: Path, names: Sequence[str]) -> CocoPart | None:
    folders = filter(None, (part_of(root, [name]) for name in names))
    return next(filter(None, map(_beside, folders)), None)


def _beside(folder: Path) -> CocoPart | None:
    """Return the only annotation file of a folder, which holds the images too."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    named = [file for file in files if file.name == "_annotations.coco.json"] or files
    return CocoPart(str(named[0]), str(folder)) if len(named) == 1 else None


def _of_annotations(root: Path, options: Mapping[str, str]) -> CocoPart | dict[str, CocoPart | DataError]:
    names = sorted(file.name[10:-5] for file in (root / "annotations").glob("instances_*.json"))
    parts = {split: _names(names, split, options.get(split)) for split in _PARTS}
    if len(names) == 1 and not any(parts.values()) and not options.keys() & set(_PARTS):
        part = _part(root, names[0])  # CVAT's instances_default.json
        if isinstance(part, DataError):
            raise part
        return part
    found: dict[str, CocoPart | DataError] = {}
    for split, chosen in parts.items():
        if len(chosen) == 1:
            found[split] = _part(root, chosen[0])
        elif chosen:
            found[split] = DataError(
                f"{root}: several annotation files for {split} ({', '.join(chosen)}); "
                f"choose with #{split}={chosen[-1]}"
            )
        else:
            wanted = options.get(split, f"{split}*")
            found[split] = DataError(f"{root}: no annotations/instances_{wanted}.json")
    return found


def _names(names: list[str], split: str, asked: str | None) -> list[str]:
    if asked:
        return [name for name in names if name == asked]
    exact = [name for name in names if name.startswith(split)]
    # CVAT's parts are called Train and Validation
    return exact or [name for name in names if name.lower() in _PARTS[split] or name.lower().startswith(split)]


def _part(root: Path, name: str) -> CocoPart | DataError:
    alike = next((names for names in _ALIKE if name in names), ())
    names = (name, *(other for other in alike if other != name))  # YOLO's valid/images for instances_val.json
    folders = [folder for one in names for folder in (root / one, root / "images" / one)]
    for images in (*folders, root / "images", root / "JPEGImages"):
        if images.is_dir():
            return CocoPart(str(root / "annotations" / f"instances_{name}.json"), str(images))
    return DataError(f"{root}: no folder {name} with the images of annotations/instances_{name}.json")


class ImageFiles:
    """Finds listed images below a folder; reads every folder once instead of asking for every file.

    A name that is a path below the folder is taken as it is. Others are looked for in the spellings that exports
    are known for: backslashes, URLs and their escapes, folders of another machine before the part that is here,
    an upload's prefix, other case or composition of accents. No spelling leads out of the folder.

    Args:
        root: The path of the folder that images are looked for in.
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
