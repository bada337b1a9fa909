"""The DATA argument of a detector: folders in COCO's layout, single annotation files, or the embedded scenes."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctxvision.data.detection.scenes import scenes_set
from ctxvision.data.embedded.scenes import SPLITS, SceneOptions
from ctxvision.data.error import DataError
from ctxvision.data.images.turned import EXIF
from ctxvision.data.labelled import DEFAULT_SPLIT, SplitRule, fingerprint, hold_out
from ctxvision.data.options import check_options, choose_value, split_options

from .coco import CocoSet
from .coco_layouts import CocoPart, find_parts
from .coco_reading import read_coco


@dataclass(frozen=True)
class DetectionSource:
    """Where a detector's training and validation images come from; each part is read when it is first asked for.

    Attributes:
        name: The name of the source, as the user gave it.
        read: The function that returns a part, ``"train"`` or ``"val"``.
        root: The folder that names begin with, so that they can be shown without it.
        may_flip: Whether an object seen in a mirror is still of its class; digits are not.
        image_size: The height and width of every image where they are all alike and small; else ``None``.
    """

    name: str
    read: Callable[[str], CocoSet]
    root: str = "."
    may_flip: bool = True
    image_size: int | None = None


def find_detection(
    data: str | os.PathLike[str],
    *,
    masks: bool = False,
    strict: bool = False,
    split: SplitRule = DEFAULT_SPLIT,
) -> DetectionSource:
    """Find the annotated images that DATA names.

    - ``digits-scenes``: the embedded scenes; options ``train``, ``val`` (how many), ``size`` and ``seed``;
    - a folder in COCO's layout or that of an export, see `find_parts`; where COCO's has several files, the options
      ``train`` and ``val`` name them, as in ``coco#train=train2017,val=val2017``;
    - ``IMAGES:ANNOTATIONS.json``: one folder and its annotation file, of which a share is held out, or with the
      option ``val=IMAGES:ANNOTATIONS.json`` those that are validated on.

    Further options of files: ``crowd=single`` and ``exif=apply`` or ``ignore``, see `read_coco`.

    Args:
        data: The DATA argument, the name of the source.
        masks: Whether objects need masks too.
        strict: Whether the first entry that cannot be used raises an error.
        split: The rule that says which images of a single annotation file are held out.

    Raises:
        DataError: There is no such source.
    """
    where, options = split_options(os.fspath(data))
    if where == "digits-scenes":
        return _embedded(where, options, masks)
    check_options(where, options, (*SPLITS, "crowd", "exif"))
    read = functools.partial(
        read_coco,
        masks=masks,
        strict=strict,
        single_crowds=choose_value(where, options, "crowd", ("regions", "single")) == "single",
        exif=choose_value(where, options, "exif", EXIF),
    )
    if where.lower().endswith(".json"):
        return _single(where, _pair(where), options.get("val"), read, split)
    folder = Path(where)
    if not folder.is_dir():
        raise DataError(f"{where}: no such folder; for a single annotation file write IMAGES:ANNOTATIONS.json")
    found = find_parts(folder, options)
    if isinstance(found, CocoPart):
        return _single(where, found, options.get("val"), read, split)

    @functools.cache
    def read_part(split: str) -> CocoSet:
        part = found[split]
        if isinstance(part, DataError):
            raise part
        return read(*part)

    return DetectionSource(where, read_part, root=where)


def _embedded(where: str, options: Mapping[str, str], masks: bool) -> DetectionSource:
    scenes = SceneOptions.read(where, options)

    @functools.cache
    def read_part(split: str) -> CocoSet:
        # one part of SPLITS, as its callers check
        return scenes_set(split, scenes, masks=masks)  # type: ignore[arg-type]

    return DetectionSource(where, read_part, may_flip=False, image_size=scenes.size)


def _single(
    where: str, part: CocoPart, val: str | None, read: Callable[[str, str], CocoSet], rule: SplitRule
) -> DetectionSource:
    whole = functools.cache(lambda: read(*part))

    @functools.cache
    def read_part(split: str) -> CocoSet:
        if val:
            return whole() if split == "train" else read(*_pair(val))
        everything = whole()
        keys = [os.path.relpath(image.name, part.images) for image in everything.images]
        held_out = hold_out(keys, rule.fraction, rule.seed)
        chosen = everything.choose(lambda index, _: (keys[index] in held_out) == (split == "val"))
        chosen.fingerprint = fingerprint(keys)
        return chosen

    return DetectionSource(where, read_part, root=part.images)


def _pair(where: str) -> CocoPart:
    images, colon, file = where.rpartition(":")
    if not colon or not images:
        raise DataError(f"{where}: name the folder of its images too, as in IMAGES:{where}")
    return CocoPart(file, images)
