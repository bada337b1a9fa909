"""What a segmentation network must know about the images that it was trained on."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.data.error import DataError
from ctxvision.data.spec import ImageSpec

IGNORE = 255
Color = tuple[int, int, int]


@dataclass(frozen=True)
class SegmentationSpec(ImageSpec):
    """The classes of pixels, the size of a training crop (``input_size``), and the normalisation.

    Images that are evaluated or predicted may have any size.

    Attributes:
        colors: The colour of each class in pictures, (red, green, blue) from 0 to 255; by default of `palette`.
    """

    _: KW_ONLY
    colors: tuple[Color, ...] = ()

    def validate_classes(self) -> None:
        """Check that there are 2 to 255 classes with a colour each; without colours, take them from `palette`."""
        count = len(self.class_names)
        if not 2 <= count <= IGNORE:
            raise DataError(f"there must be 2 to 255 classes, got {count}")
        colors = tuple(tuple(color) for color in self.colors) or palette(count)
        if len(colors) != count or any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in colors):
            raise DataError(f"{count} classes need as many colours of three numbers from 0 to 255")
        object.__setattr__(self, "colors", colors)

    def eval_transform(self) -> Callable[[Image.Image], Tensor]:
        """Return a function that normalises a PIL image in `color_mode`, without any resizing: (C, H, W)."""
        return lambda image: self.normalize(to_pixels(image))


def to_pixels(image: Image.Image) -> Tensor:
    """Turn a PIL image into a tensor (C, H, W) uint8."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def palette(count: int) -> tuple[Color, ...]:
    """Return a colour for each class, spread by the bits of its number as PASCAL VOC does; class 0 is black."""
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)
