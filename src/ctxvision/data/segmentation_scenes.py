"""The embedded scenes as images with masks, in memory."""

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .error import DataError
from .options import check_options
from .scenes import SEMANTIC_NAMES, make_scene
from .segmentation_source import PixelSet
from .segmentation_spec import Color

_SCENES = {"train": 1500, "val": 200, "size": 96, "seed": 0}
# background grey, the digits in Paul Tol's "muted" order and one more, told apart by most readers
_COLORS: tuple[Color, ...] = (
    (70, 70, 70), (51, 34, 136), (136, 204, 238), (68, 170, 153), (17, 119, 51), (153, 153, 51),
    (221, 204, 119), (204, 102, 119), (136, 34, 85), (170, 68, 153), (255, 140, 0),
)  # fmt: skip


class SceneNames:
    """Opens ``SPLIT-INDEX.image`` and ``SPLIT-INDEX.mask``, composed when they are first asked for.

    Args:
        counts: scenes of each split.
        size: height and width.
        seed: of the set.
    """

    def __init__(self, counts: Mapping[str, int], size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.scenes: dict[str, list[tuple[NDArray[np.uint8], NDArray[np.uint8]] | None]] = {
            split: [None] * count for split, count in counts.items()
        }

    def __call__(self, name: str) -> Image.Image:
        """Return the image, or the mask."""
        where, kind = name.split(".")
        split, index = where.split("-")
        return Image.fromarray(self._scene(split, int(index))[kind == "mask"])

    def _scene(self, split: str, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        known = self.scenes[split][index]
        if known is None:
            part: Literal["train", "val"] = "train" if split == "train" else "val"
            scene = make_scene(self.seed, index, self.size, part)
            known = self.scenes[split][index] = scene.image, scene.semantic
        return known


def scenes_pixel_set(where: str, options: Mapping[str, str]) -> PixelSet:
    """Return the scenes that the options ``train``, ``val`` (how many), ``size`` and ``seed`` describe.

    Raises:
        DataError: another option, or a value out of range.
    """
    values = dict(_SCENES)
    for name, text in check_options(where, options, tuple(_SCENES)).items():
        lowest = {"seed": 0, "size": 48}.get(name, 1)
        if not re.fullmatch("[0-9]{1,7}", text) or int(text) < lowest:
            raise DataError(f"{where}: {name} must be a whole number of at least {lowest}, got {text!r}")
        values[name] = int(text)
    counts = {split: values[split] for split in ("train", "val")}
    names = {split: [f"{split}-{index:06d}" for index in range(count)] for split, count in counts.items()}
    pairs = {split: [(f"{name}.image", f"{name}.mask") for name in names[split]] for split in counts}
    return PixelSet(
        SEMANTIC_NAMES,
        train=pairs["train"],
        val=pairs["val"],
        colors=_COLORS,
        crop_size=(values["size"], values["size"]),
        may_flip=False,
        open_name=SceneNames(counts, values["size"], values["seed"]),
    )
