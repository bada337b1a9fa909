"""What a folder looks like that holds more than images of classes: data of other tasks, labels of other tools."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ctxvision.files import near_path
from ctxvision.wording import did_you_mean

from .options import split_options
from .video.source import is_video

_MOST = 2000  # entries of a folder that are looked at
_EMBEDDED = {
    "classification": "digits",
    "detection": "digits-scenes",
    "segmentation": "digits-scenes",
    "video": "moving-digits",
}
_OF_TASK = {"detection": "detect", "segmentation": "segment", "video": "video"}


def advice_about(source: str | os.PathLike[str], task: str) -> str:
    """Say what to do about a folder that is not for a task, or whose labels must be converted; empty if it may be.

    Recognised are COCO's layout, Cityscapes, clips in class folders, and labels of YOLO and Pascal VOC. Nothing is
    opened, and of large folders only the first entries are looked at.

    Args:
        source: The source as the user named it; files are passed over, and so are words but those that name, or
            almost name, embedded data.
        task: The name of the task that the data are wanted for.
    """
    root = Path(source)
    if not root.exists():
        return about_a_word(source, task)
    if not root.is_dir():
        return ""
    parts = [root, *(root / name for name in ("train", "training", "val", "valid", "validation", "test"))]
    looks, fitting = _look(root, parts)
    if not looks or fitting == task:
        return ""
    if fitting:
        return f"{source}: looks like {looks}; add --task {_OF_TASK[fitting]}"
    if task in ("segmentation", "video"):
        return ""
    return (
        f"{source}: looks like {looks}; `ctxvision convert-labels {source}` makes COCO's JSON of them, which "
        "`train --task detect` reads"
    )


def about_a_word(source: str | os.PathLike[str], task: str) -> str:
    """Say what is wrong with a word that names, or almost names, embedded data; empty if nothing is."""
    word, fitting = split_options(os.fspath(source))[0], _EMBEDDED.get(task, "")
    if word == fitting or near_path(word):
        return ""
    if word in _EMBEDDED.values():
        return f"{source}: not for --task {_OF_TASK.get(task, 'classify')}, for which there is {fitting}"
    hint = did_you_mean(word, [fitting])
    return f"{source}: no such folder{hint}" if hint else ""


def _look(root: Path, parts: list[Path]) -> tuple[str, str]:
    """Return what a folder looks like, in words, and its task; no task where labels must be converted."""
    if _first(root / "annotations", "instances_*.json") or any(_first(p, "_annotations.coco.json") for p in parts):
        return "boxes in COCO's layout", "detection"
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return "Cityscapes", "segmentation"
    for part in parts:
        labels = part / "labels"
        if (part / "images").is_dir() and any(map(_numbers, (labels, *_folders(labels)))):
            return "labels of YOLO (labels/*.txt)", ""
    for part in (*parts, *root.glob("VOC2*"), *(root / "VOCdevkit").glob("VOC2*")):
        if _first(part / "Annotations", "*.xml") or (_first(part, "*.xml") and _first(part, "*.jp*g")):
            return "labels of Pascal VOC (*.xml)", ""
    classes = [folder for part in parts for folder in _folders(part)]
    names = [name for folder in classes[:50] for name in _names(folder)]
    if names and all(map(is_video, names)) and not all(name.lower().endswith(".gif") for name in names):
        return "videos in class folders", "video"
    return "", ""


def _first(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None if folder.is_dir() else False


def _numbers(folder: Path) -> bool:
    """Tell whether a folder holds nothing but text files."""
    names = list(_names(folder))
    return bool(names) and all(name.endswith((".txt", ".cache")) for name in names)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from islice((entry for entry in found if not entry.name.startswith(".")), _MOST)
    except OSError:
        return


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_file()]


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir())
