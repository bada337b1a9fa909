"""Cityscapes (Cordts et al., CVPR 2016): layout and classes; the embedded scenes, in memory or in that layout."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import Cityscapes

from ctxvision.data.embedded.scenes import SEMANTIC_NAMES, SPLITS, SceneOptions, Split
from ctxvision.data.error import DataError

from .source import IGNORE, UNKNOWN, Color, Pairs, PixelSet

_CLASSES = sorted((one for one in Cityscapes.classes if 0 <= one.train_id < IGNORE), key=lambda one: one.train_id)
CLASS_NAMES = tuple(str(one.name) for one in _CLASSES)
COLORS: tuple[Color, ...] = tuple(one.color for one in _CLASSES)
LABEL_IDS = tuple(int(one.id) for one in _CLASSES)
CROP = (512, 1024)
_IMAGE, _LABELS, _TRAIN_LABELS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def train_ids() -> NDArray[np.int16]:
    """Return the table (256,) from label ids to classes; the licence plate, whose id is -1, is stored as 255."""
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[:34] = table[255] = IGNORE
    table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
    return table


def is_cityscapes(root: Path) -> bool:
    """Tell whether a folder has the layout of Cityscapes."""
    return (root / "leftImg8bit").is_dir()


def scan_cityscapes(root: Path) -> PixelSet:
    """Find ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and their masks in ``gtFine``.

    A mask is ``*_gtFine_labelIds.png``, or where there is none, ``*_gtFine_labelTrainIds.png``.

    Raises:
        DataError: There are no images to train on or to validate on, or there is no ``gtFine``.
    """
    if not (root / "gtFine").is_dir():
        raise DataError(f"{root}: has leftImg8bit but no gtFine; the masks come in an archive of their own")
    found = PixelSet(CLASS_NAMES, root=str(root), colors=COLORS, crop_size=CROP, tables={_LABELS: train_ids()})
    found.train, found.val = (_pairs(root, split, found.bad) for split in ("train", "val"))
    for split, pairs in (("train", found.train), ("val", found.val)):
        if not pairs:
            raise DataError(
                f"{root}: no images with masks; expected leftImg8bit/{split}/CITY/*{_IMAGE} and gtFine/…"
            )
    return found


def _pairs(root: Path, split: str, bad: dict[str, str]) -> Pairs:
    pictures, truths = root / "leftImg8bit" / split, root / "gtFine" / split
    pairs = []
    for image in sorted(pictures.glob(f"*/*{_IMAGE}")):
        stem = image.name.removesuffix(_IMAGE)
        masks = [truths / image.parent.name / f"{stem}{suffix}" for suffix in (_LABELS, _TRAIN_LABELS)]
        mask = next((path for path in masks if path.is_file()), None)
        if mask is None:
            bad[str(image)] = f"has no mask {masks[0].relative_to(root).as_posix()}"
        else:
            pairs.append((str(image), str(mask)))
    for mask in sorted(truths.glob(f"*/*{_LABELS}")):
        image = pictures / mask.parent.name / (mask.name.removesuffix(_LABELS) + _IMAGE)
        if not image.is_file():
            bad[str(mask)] = f"has no image {image.relative_to(root).as_posix()}"
    return pairs


# background grey, the digits in Paul Tol's "muted" order and one more, told apart by most readers
_COLORS: tuple[Color, ...] = (
    (70, 70, 70), (51, 34, 136), (136, 204, 238), (68, 170, 153), (17, 119, 51), (153, 153, 51),
    (221, 204, 119), (204, 102, 119), (136, 34, 85), (170, 68, 153), (255, 140, 0),
)  # fmt: skip


class SceneNames:
    """Opens ``SPLIT-INDEX.image`` and ``SPLIT-INDEX.mask``, composed when they are first asked for.

    Args:
        options: The number, the size and the contents of the scenes.
    """

    def __init__(self, options: SceneOptions) -> None:
        self.options = options
        self.scenes: dict[str, list[tuple[NDArray[np.uint8], NDArray[np.uint8]] | None]] = {
            "train": [None] * options.train,
            "val": [None] * options.val,
        }

    def __call__(self, name: str) -> Image.Image:
        """Return the image, or the mask."""
        where, kind = name.split(".")
        split, index = where.split("-")
        return Image.fromarray(self._scene(split, int(index))[kind == "mask"])

    def _scene(self, split: str, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        known = self.scenes[split][index]
        if known is None:
            part: Split = "train" if split == "train" else "val"
            scene = self.options.make(part, index)
            known = self.scenes[split][index] = scene.image, scene.semantic
        return known


def scenes_pixel_set(where: str, options: Mapping[str, str]) -> PixelSet:
    """Return the scenes that the options of `SceneOptions` describe.

    Raises:
        DataError: There is no such option, or a value is out of range.
    """
    scenes = SceneOptions.read(where, options)
    counts = {"train": scenes.train, "val": scenes.val}
    names = {split: [f"{split}-{index:06d}" for index in range(count)] for split, count in counts.items()}
    pairs = {split: [(f"{name}.image", f"{name}.mask") for name in names[split]] for split in counts}
    return PixelSet(
        SEMANTIC_NAMES,
        train=pairs["train"],
        val=pairs["val"],
        colors=_COLORS,
        crop_size=(scenes.size, scenes.size),
        may_flip=False,
        open_name=SceneNames(scenes),
    )


def export_cityscapes(folder: str | os.PathLike[str], **options: int) -> None:
    """Write scenes in Cityscapes' layout, ``leftImg8bit/SPLIT/digits/*`` and ``gtFine/SPLIT/digits/*``.

    The background has train id 0, the digits 1 to 10; ``labelIds`` holds the ids that Cityscapes gives these train
    ids, and 0 (unlabelled) on the rim of the digits.

    Args:
        folder: The folder to write to; it is made if it does not exist.
        options: The fields of `SceneOptions`.
    """
    scenes = SceneOptions(**options)
    ids = np.zeros(256, dtype=np.uint8)
    ids[: len(SEMANTIC_NAMES)] = LABEL_IDS[: len(SEMANTIC_NAMES)]
    for split in SPLITS:
        pictures, truths = (Path(folder, part, split, "digits") for part in ("leftImg8bit", "gtFine"))
        pictures.mkdir(parents=True, exist_ok=True)
        truths.mkdir(parents=True, exist_ok=True)
        for index, scene in enumerate(scenes.scenes(split)):
            stem = f"digits_000000_{index:06d}"
            Image.fromarray(scene.image).save(pictures / f"{stem}_leftImg8bit.png")
            Image.fromarray(ids[scene.semantic]).save(truths / f"{stem}_gtFine_labelIds.png")
            Image.fromarray(scene.semantic).save(truths / f"{stem}_gtFine_labelTrainIds.png")
