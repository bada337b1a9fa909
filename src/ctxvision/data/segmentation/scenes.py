"""The embedded scenes as images with masks, in memory."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.embedded.scene_options import SceneOptions
from ctxvision.data.embedded.scenes import SEMANTIC_NAMES, Split

from .source import PixelSet
from .spec import Color

# background grey, the digits in Paul Tol's "muted" order and one more, told apart by most readers
_COLORS: tuple[Color, ...] = (
    (70, 70, 70), (51, 34, 136), (136, 204, 238), (68, 170, 153), (17, 119, 51), (153, 153, 51),
    (221, 204, 119), (204, 102, 119), (136, 34, 85), (170, 68, 153), (255, 140, 0),
)  # fmt: skip


class SceneNames:
    """Opens ``SPLIT-INDEX.image`` and ``SPLIT-INDEX.mask``, composed when they are first asked for.

    Args:
        options: of the set.
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
        DataError: another option, or a value out of range.
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
