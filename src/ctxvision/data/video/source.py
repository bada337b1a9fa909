"""Where videos with one class each come from: folders, tables, and the embedded clips."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxvision.data.contents import Contents, Found, arrange, in_order, quoted
from ctxvision.data.embedded.moving_digits import MOTIONS, MovingDigits
from ctxvision.data.error import DataError
from ctxvision.data.images.folder import VAL_FOLDERS
from ctxvision.data.options import check_options, split_options
from ctxvision.data.table import read_table

from .files import is_video, list_video_files
from .reading import VideoFile, VideoInMemory, VideoOpener

_EMBEDDED = "moving-digits"
_DEFAULTS = {"train": 1600, "val": 400, "size": 32, "seed": 0}


@dataclass
class VideoContents:
    """What a source of videos holds.

    Attributes:
        contents: classes, and names with labels.
        open_video: makes a video of a name. It travels to the workers.
        flip: whether a mirrored video is still of its class.
        crop: whether a part of the picture is.
    """

    contents: Contents
    open_video: VideoOpener = VideoFile
    flip: bool = True
    crop: bool = True
    image_size: int | None = field(default=None)


class _InMemory:
    """Opens the embedded clips by name."""

    def __init__(self, parts: dict[str, MovingDigits]) -> None:
        self.parts = parts

    def __call__(self, name: str) -> VideoInMemory:
        part, _, rest = name.partition("/")
        clip = self.parts[part].clips[int(rest.rpartition("/")[2])]
        return VideoInMemory(clip.permute(0, 2, 3, 1).numpy())


def find_videos(
    data: str | os.PathLike[str],
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    class_names: Sequence[str] | None = None,
    strict: bool = False,
    frames: int = 8,
) -> VideoContents:
    """Find out what a source of videos holds.

    The first of these rules that fits decides:

    1. ``moving-digits``: clips drawn in memory, see `MovingDigits`; ``moving-digits#train=800,size=48`` sets
       ``clips`` (for training), ``val``, ``size``, ``seed`` and ``frames`` (by default as many as are looked at);
    2. what ends in ``.csv`` or ``.tsv``: see `read_table`; its options are ``path``, ``label``, ``split``;
    3. a folder, ``train/CLASS/VIDEO`` and ``val/CLASS/VIDEO``, or ``CLASS/VIDEO`` alone, which is then split.

    Args:
        data: the source.
        val_fraction: share of each class to hold out where the source has no validation part.
        split_seed: of that choice.
        class_names: the classes of a trained network, in its order.
        strict: raise where a video is listed but cannot be used.
        frames: how many of each video are looked at.

    Raises:
        DataError: no such source, or its contents cannot be used.
    """
    where, options = split_options(os.fspath(data))
    split: dict[str, Any] = {"val_fraction": val_fraction, "split_seed": split_seed, "class_names": class_names}
    if where == _EMBEDDED:
        return _moving_digits({"frames": str(frames), **options}, class_names)
    if where.lower().endswith((".csv", ".tsv")):
        return VideoContents(_of_videos(read_table(where, options=options, strict=strict, **split)))
    check_options(where, options, ())
    return VideoContents(_of_videos(_scan(Path(where), split)))


def _moving_digits(options: dict[str, str], class_names: Sequence[str] | None) -> VideoContents:
    check_options(_EMBEDDED, options, (*_DEFAULTS, "frames"))
    try:
        given = {**_DEFAULTS, **{name: int(value) for name, value in options.items()}}
    except ValueError as error:
        raise DataError(f"{_EMBEDDED}: expected whole numbers after '#', got {options}") from error
    if min(given["train"], given["val"], given["frames"] - 1, given["size"] - 7, given["seed"] + 1) < 1:
        raise DataError(
            f"{_EMBEDDED}: needs clips of both parts, 2 or more frames of 8 or more pixels, no negative seed"
        )
    if class_names and tuple(class_names) != MOTIONS:
        raise DataError(f"{_EMBEDDED}: the network's classes are {quoted(list(class_names))}, not these motions")
    same = {"frames": given["frames"], "size": given["size"], "seed": given["seed"]}
    parts = {
        "train": MovingDigits("train", given["train"], **same),
        "val": MovingDigits("val", given["val"], **same),
    }
    samples = {
        part: [(f"{part}/{name}", int(label)) for name, label in zip(clips.names(), clips.labels, strict=True)]
        for part, clips in parts.items()
    }
    contents = Contents(MOTIONS, samples["train"], samples["val"], root="")
    return VideoContents(contents, _InMemory(parts), flip=False, crop=False, image_size=given["size"])


def _scan(root: Path, split: dict[str, Any]) -> Contents:
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    train_root = root / "train" if (root / "train").is_dir() and _folders(root / "train") else root
    val_root = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if train_root == root and val_root and all(p.name in VAL_FOLDERS for p in _folders(root)):
        raise DataError(f"{root}: has {val_root.name}/ but no train/; to evaluate, name {val_root}")
    notes: list[str] = []
    has_val = train_root != root and val_root is not None
    contents = arrange(
        _by_class(train_root, notes),
        _by_class(val_root, notes) if has_val and val_root else None,
        where=str(train_root),
        where_val=str(val_root),
        **split,
    )
    contents.notes[:0] = notes
    contents.root = str(root)
    return contents


def _by_class(root: Path, notes: list[str]) -> Found:
    folders = _folders(root)
    loose = [p for p in root.iterdir() if is_video(p.name) and p.is_file()]
    if not folders:
        found = f"{len(loose)} videos but no class folders" if loose else "no class folders"
        raise DataError(f"{root}: {found}; expected {root}/CLASS/VIDEO")
    if loose:
        notes.append(f"{root}: {len(loose)} videos outside the class folders are left out")
    start = len(os.path.join(root, ""))
    by_class: Found = {}
    for folder in folders:
        found = list_video_files(folder)
        by_class[folder.name] = {video[start:].replace(os.sep, "/"): video for video in found.files}
        if left_out := found.summary():
            notes.append(f"{folder}: {left_out}")
    if not any(by_class.values()):
        raise DataError(f"{root}: no videos in its {len(folders)} class folders ({quoted(list(by_class))})")
    return by_class


def _folders(root: Path) -> list[Path]:
    folders = {p.name: p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    return [folders[name] for name in in_order(list(folders))]


def _of_videos(contents: Contents) -> Contents:
    """Let the notes speak of videos."""
    contents.notes = [n.replace(": no images", ": no videos").replace("training images", "training videos")
                      .replace("the only image of", "the only video of") for n in contents.notes]  # fmt: skip
    return contents
