"""The embedded scenes as images with masks, in memory."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.embedded.scenes import SEMANTIC_NAMES, SPLITS, SceneOptions, Split

from .source import PixelSet
from .spec import Color

# ids of Cityscapes' 19 classes in the order of their train ids; scenes use the first eleven
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23)
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
    ids[: len(_CITYSCAPES_IDS)] = _CITYSCAPES_IDS
    for split in SPLITS:
        pictures, truths = (Path(folder, part, split, "digits") for part in ("leftImg8bit", "gtFine"))
        pictures.mkdir(parents=True, exist_ok=True)
        truths.mkdir(parents=True, exist_ok=True)
        for index, scene in enumerate(scenes.scenes(split)):
            stem = f"digits_000000_{index:06d}"
            Image.fromarray(scene.image).save(pictures / f"{stem}_leftImg8bit.png")
            Image.fromarray(ids[scene.semantic]).save(truths / f"{stem}_gtFine_labelIds.png")
            Image.fromarray(scene.semantic).save(truths / f"{stem}_gtFine_labelTrainIds.png")
