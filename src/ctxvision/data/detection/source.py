"""The DATA argument of a detector: folders in COCO's layout, single annotation files, or the embedded scenes."""

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.embedded.digits import CLASS_NAMES
from ctxvision.data.embedded.scenes import SPLITS, SceneOptions, Split
from ctxvision.data.error import DataError
from ctxvision.data.images.turned import EXIF
from ctxvision.data.labelled import DEFAULT_SPLIT, SplitRule, fingerprint, hold_out
from ctxvision.data.options import check_options, choose_value, split_options
from ctxvision.files import near_path

from .coco import Annotation, CocoImage, CocoSet, PackedAnnotations
from .coco_layouts import CocoPart, find_parts
from .coco_reading import read_coco
from .coco_values import encode_masks

_CATEGORY_IDS = tuple(1 + 2 * digit for digit in range(10))  # with gaps, as COCO's have


class SceneOpener:
    """Opens the rows of an array as images.

    Args:
        images: The images, (N, H, W, 3) uint8.
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __call__(self, name: str) -> Image.Image:
        """Return the image of a name as `scenes_set` gives it."""
        return Image.fromarray(self.images[int(name.rpartition("-")[2])])


def scenes_set(split: Split, options: SceneOptions, *, masks: bool = True) -> CocoSet:
    """Compose scenes and keep them in memory as a set of annotated images.

    Args:
        split: The part of the digits to draw from, and of the options' counts to use.
        options: The number, the size and the contents of the scenes.
        masks: Whether objects have masks.
    """
    count, size = options.count(split), options.size
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    listed = []
    annotations = []
    for index, scene in enumerate(options.scenes(split)):
        images[index] = scene.image
        listed.append(CocoImage(index + 1, f"{split}-{index:06d}", size, size))
        codes = encode_masks(scene.masks)
        objects = zip(scene.labels, scene.boxes.tolist(), scene.masks, codes, strict=True)
        annotations.append(
            [
                Annotation(int(label) + 1, (x0, y0, x1, y1), float(mask.sum()), False, code if masks else None)
                for label, (x0, y0, x1, y1), mask, code in objects
            ]
        )
    return CocoSet(
        CLASS_NAMES, _CATEGORY_IDS, listed, PackedAnnotations(annotations), open_image=SceneOpener(images)
    )


def export_coco(folder: str | os.PathLike[str], **options: int) -> None:
    """Write scenes in COCO's layout: ``annotations/instances_*.json``, and PNG files in ``train`` and ``val``.

    Masks are compressed run-length codes, since polygons know no holes.

    Args:
        folder: The folder to write to; it is made if it does not exist.
        options: The fields of `SceneOptions`.
    """
    root, scenes = Path(folder), SceneOptions(**options)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, scene in enumerate(scenes.scenes(split)):
            name = f"{index:06d}.png"
            Image.fromarray(scene.image).save(root / split / name)
            images.append({"id": index + 1, "file_name": name, "height": scenes.size, "width": scenes.size})
            for label, box, mask, code in zip(
                scene.labels, scene.boxes.tolist(), scene.masks, encode_masks(scene.masks), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": _CATEGORY_IDS[label],
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": code,
                    }
                )
        categories = [{"id": i, "name": name} for i, name in zip(_CATEGORY_IDS, CLASS_NAMES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


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
    read: Callable[[Split], CocoSet]
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
        raise DataError(
            f"{where}: no such folder{near_path(folder)}; for a single annotation file write "
            "IMAGES:ANNOTATIONS.json"
        )
    found = find_parts(folder, options)
    if isinstance(found, CocoPart):
        return _single(where, found, options.get("val"), read, split)

    @functools.cache
    def read_part(split: Split) -> CocoSet:
        part = found[split]
        if isinstance(part, DataError):
            raise part
        return read(*part)

    return DetectionSource(where, read_part, root=where)


def _embedded(where: str, options: Mapping[str, str], masks: bool) -> DetectionSource:
    scenes = SceneOptions.read(where, options)

    @functools.cache
    def read_part(split: Split) -> CocoSet:
        return scenes_set(split, scenes, masks=masks)

    return DetectionSource(where, read_part, may_flip=False, image_size=scenes.size)


def _single(
    where: str, part: CocoPart, val: str | None, read: Callable[[str, str], CocoSet], rule: SplitRule
) -> DetectionSource:
    whole = functools.cache(lambda: read(*part))

    @functools.cache
    def read_part(split: Split) -> CocoSet:
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
