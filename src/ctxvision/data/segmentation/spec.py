"""What a segmentation network must know about the images that it was trained on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.data.error import DataError

IGNORE = 255
Color = tuple[int, int, int]


@dataclass(frozen=True)
class SegmentationSpec:
    """Classes, crop size and normalisation; travels inside every checkpoint as plain Python values.

    Attributes:
        class_names: one per output of the network, in its order.
        input_size: (C, H, W) of a training crop; C is 1 or 3. Images to be predicted may have any size.
        mean: per channel, of pixels in [0, 1].
        std: per channel, likewise.
        colors: of the classes in pictures, (red, green, blue) from 0 to 255; by default a palette of ours.
        val_fraction: share of the images held out, where one folder was split.
        split_seed: seed of that split.
        fingerprint: of the names of the files that were split, so that ``evaluate`` holds out the same.
    """

    class_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colors: tuple[Color, ...] = ()
    val_fraction: float = 0.2
    split_seed: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name in ("class_names", "input_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        channels = self.input_size[0]
        if len(self.input_size) != 3 or channels not in (1, 3) or min(self.input_size) < 1:
            raise DataError(f"input size must be (1 or 3, height, width), got {self.input_size}")
        if len(self.mean) != channels or len(self.std) != channels:
            raise DataError(f"{channels} channels need as many means and deviations, got {self.mean}, {self.std}")
        count = len(self.class_names)
        if not 2 <= count <= IGNORE:
            raise DataError(f"there must be 2 to 255 classes, got {count}")
        colors = tuple(tuple(color) for color in self.colors) or palette(count)
        if len(colors) != count or any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in colors):
            raise DataError(f"{count} classes need as many colours of three numbers from 0 to 255")
        object.__setattr__(self, "colors", colors)

    @property
    def color_mode(self) -> str:
        """PIL's mode with as many channels: ``"L"`` or ``"RGB"``."""
        return "L" if self.input_size[0] == 1 else "RGB"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as lists, strings and numbers only."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return values | {"colors": [list(color) for color in self.colors]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SegmentationSpec":
        """Rebuild from `to_dict`; raises `DataError` on anything else."""
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(f"not a data specification: {error}") from error

    def eval_transform(self) -> Callable[[Image.Image], Tensor]:
        """Normalise, without any resizing. PIL image in `color_mode` → (C, H, W)."""
        return lambda image: self.normalize(to_pixels(image))

    def normalize(self, pixels: Tensor) -> Tensor:
        """(C, H, W) from 0 to 255 → float32 with the network's mean and deviation."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pixels.float() / 255 - mean) / std


def to_pixels(image: Image.Image) -> Tensor:
    """PIL image → (C, H, W) uint8."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def palette(count: int) -> tuple[Color, ...]:
    """Return colours that the bits of a class's number spread over the cube, as PASCAL VOC's are; 0 is black."""
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)
