"""Where videos with one class each come from: folders, tables, and the embedded clips."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxvision.data.embedded.moving_digits import MOTIONS, MovingDigits
from ctxvision.data.error import DataError
from ctxvision.data.files import Listing, list_below, suffix_in
from ctxvision.data.images.source import FileKind, by_class, parts_of, require_folder
from ctxvision.data.labelled import DEFAULT_SPLIT, LabelledSet, SplitRule, arrange, quoted
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
_VIDEOS = FileKind("video", is_video)


@dataclass
class VideoSet:
    """The videos that a source holds, and what may be done to them in training.

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
    split: SplitRule = DEFAULT_SPLIT,
    strict: bool = False,
    frames: int = 8,
) -> VideoSet:
    """Find the classes and the videos that a source holds.

    The first of these rules that fits decides:

    1. ``moving-digits``: clips drawn in memory, see `MovingDigits`; ``moving-digits#train=800,size=48`` sets
       ``clips`` (for training), ``val``, ``size``, ``seed`` and ``frames`` (by default as many as are looked at);
    2. what ends in ``.csv`` or ``.tsv``: see `read_table`; its options are ``path``, ``label``, ``split``;
    3. a folder, ``train/CLASS/VIDEO`` and ``val/CLASS/VIDEO``, or ``CLASS/VIDEO`` alone, which is then split.

    Args:
        data: The DATA argument, the name of the source.
        split: The rule that says which samples are held out where the source has no validation part, and which
            classes there are.
        strict: Whether a video that is listed but cannot be used raises an error.
        frames: The number of frames of each video that are looked at.

    Raises:
        DataError: There is no such source, or its contents cannot be used.
    """
    where, options = split_options(os.fspath(data))
    if where == _EMBEDDED:
        return _moving_digits({"frames": str(frames), **options}, split.class_names)
    if where.lower().endswith((".csv", ".tsv")):
        return VideoSet(_of_videos(read_table(where, options=options, strict=strict, split=split)))
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


def _scan(root: Path, split: SplitRule) -> LabelledSet:
    train_root, val_root = parts_of(require_folder(root))
    notes: list[str] = []
    labelled = arrange(
        by_class(train_root, notes, _VIDEOS),
        by_class(val_root, notes, _VIDEOS) if val_root else None,
        where=str(train_root),
        where_val=str(val_root),
        split=split,
    )
    labelled.notes[:0] = notes
    labelled.root = str(root)
    return labelled


def _of_videos(labelled: LabelledSet) -> LabelledSet:
    """Make the notes, which `arrange` words for images, speak of videos."""
    labelled.notes = [n.replace(": no images", ": no videos").replace("training images", "training videos")
                      .replace("the only image of", "the only video of") for n in labelled.notes]  # fmt: skip
    return labelled


def list_videos(folder: str | os.PathLike[str]) -> list[str]:
    """List the video files below a folder, by their suffix; sorted paths that begin with it."""
    return list_video_files(folder).files


def list_video_files(folder: str | os.PathLike[str]) -> Listing:
    """List the video files below a folder as `list_videos` does, and count what else is there."""
    return list_below(folder, is_video)
