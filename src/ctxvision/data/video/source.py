"""Where videos with one class each come from: folders, tables, and the embedded clips."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxvision.data.embedded.moving_digits import MOTIONS, MovingDigits
from ctxvision.data.error import DataError
from ctxvision.data.files import Listing, list_below, suffix_in
from ctxvision.data.images.folder import VAL_FOLDERS
from ctxvision.data.labelled import Found, LabelledSet, arrange, in_order, quoted
from ctxvision.data.options import check_options, split_options
from ctxvision.data.table import read_table

from .reading import VideoFile, VideoInMemory, VideoOpener

_EMBEDDED = "moving-digits"
_DEFAULTS = {"train": 1600, "val": 400, "size": 32, "seed": 0}
VIDEO_SUFFIXES = frozenset(
    {
        ".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
        ".h261", ".h263", ".h264", ".h265", ".hevc", ".insv", ".ismv", ".ivf", ".lrv", ".m1v", ".m2t", ".m2ts",
        ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
        ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".tod",
        ".trp", ".ts", ".vc1", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
    }
)  # fmt: skip
is_video = suffix_in(VIDEO_SUFFIXES)


@dataclass
class VideoSet:
    """What a source of videos holds.

    Attributes:
        videos: The classes, and the names of the videos with their labels.
        open_video: The function that makes a video of a name; it travels to the workers.
        flip: Whether a mirrored video is still of its class.
        crop: Whether a part of the picture is still of its class.
        image_size: The height and width of every video where they are all alike and small; else ``None``.
    """

    videos: LabelledSet
    open_video: VideoOpener = VideoFile
    flip: bool = True
    crop: bool = True
    image_size: int | None = None


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
) -> VideoSet:
    """Find out what a source of videos holds.

    The first of these rules that fits decides:

    1. ``moving-digits``: clips drawn in memory, see `MovingDigits`; ``moving-digits#train=800,size=48`` sets
       ``clips`` (for training), ``val``, ``size``, ``seed`` and ``frames`` (by default as many as are looked at);
    2. what ends in ``.csv`` or ``.tsv``: see `read_table`; its options are ``path``, ``label``, ``split``;
    3. a folder, ``train/CLASS/VIDEO`` and ``val/CLASS/VIDEO``, or ``CLASS/VIDEO`` alone, which is then split.

    Args:
        data: The DATA argument, the name of the source.
        val_fraction: The share of each class to hold out where the source has no validation part.
        split_seed: The seed that chooses which samples are held out.
        class_names: The classes of a trained network, in its order; by default those of the source.
        strict: Whether a video that is listed but cannot be used raises an error.
        frames: The number of frames of each video that are looked at.

    Raises:
        DataError: There is no such source, or its contents cannot be used.
    """
    where, options = split_options(os.fspath(data))
    split: dict[str, Any] = {"val_fraction": val_fraction, "split_seed": split_seed, "class_names": class_names}
    if where == _EMBEDDED:
        return _moving_digits({"frames": str(frames), **options}, class_names)
    if where.lower().endswith((".csv", ".tsv")):
        return VideoSet(_of_videos(read_table(where, options=options, strict=strict, **split)))
    check_options(where, options, ())
    return VideoSet(_of_videos(_scan(Path(where), split)))


def _moving_digits(options: dict[str, str], class_names: Sequence[str] | None) -> VideoSet:
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
    videos = LabelledSet(MOTIONS, samples["train"], samples["val"], root="")
    return VideoSet(videos, _InMemory(parts), flip=False, crop=False, image_size=given["size"])


def _scan(root: Path, split: dict[str, Any]) -> LabelledSet:
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    train_root = root / "train" if (root / "train").is_dir() and _folders(root / "train") else root
    val_root = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if train_root == root and val_root and all(p.name in VAL_FOLDERS for p in _folders(root)):
        raise DataError(f"{root}: has {val_root.name}/ but no train/; to evaluate, name {val_root}")
    notes: list[str] = []
    has_val = train_root != root and val_root is not None
    labelled = arrange(
        _by_class(train_root, notes),
        _by_class(val_root, notes) if has_val and val_root else None,
        where=str(train_root),
        where_val=str(val_root),
        **split,
    )
    labelled.notes[:0] = notes
    labelled.root = str(root)
    return labelled


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


def _of_videos(labelled: LabelledSet) -> LabelledSet:
    """Let the notes speak of videos."""
    labelled.notes = [n.replace(": no images", ": no videos").replace("training images", "training videos")
                      .replace("the only image of", "the only video of") for n in labelled.notes]  # fmt: skip
    return labelled


def list_videos(folder: str | os.PathLike[str]) -> list[str]:
    """List the video files below a folder, by their suffix; sorted paths that begin with it."""
    return list_video_files(folder).files


def list_video_files(folder: str | os.PathLike[str]) -> Listing:
    """List the video files below a folder as `list_videos` does, and count what else is there."""
    return list_below(folder, is_video)
