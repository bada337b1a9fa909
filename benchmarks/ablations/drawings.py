"""The task: emoji that several artists drew; trained on some, validated on one, tested on another."""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ctxvision.data.images.emoji import read_emoji

VIEWS = 8
"""How often a held-out drawing is shown: as it is, and else moved as in training, always in the same way."""
_ANGLE, _ZOOM, _SHIFT = 0.2, 0.25, 0.2  # radians, of the logarithm, half a side
_SATURATION, _GAIN = (0.4, 1.4), (0.7, 1.15)


class Drawings(NamedTuple):
    """Drawings of one part."""

    images: Tensor
    """``(N, 3, side, side)`` in 0..1, on white."""
    classes: Tensor
    """``(N,)`` int64."""


class Task(NamedTuple):
    """The three parts."""

    train: Drawings
    val: Drawings
    test: Drawings


@functools.lru_cache(1)
def open_task(classes: str, side: int) -> Task:
    """Return the drawings; the held-out ones `VIEWS` times, all as they are first, then all moved, and so on.

    Args:
        classes: Number of classes, or ``all``.
        side: Height and width in pixels.
    """
    options = {"classes": classes, "size": str(side)}
    found, test = read_emoji({**options, "part": "val"}), read_emoji({**options, "part": "test"}).val
    return Task(_read(found.train), *(shown_again(_read(part)) for part in (found.val, test)))


def shown_again(drawings: Drawings) -> Drawings:
    """Return held-out drawings `VIEWS` times: their number is that of the classes, and few images tell little."""
    generator = torch.Generator().manual_seed(1)
    views = [drawings.images, *(moved(drawings.images, generator) for _ in range(VIEWS - 1))]
    return Drawings(torch.cat(views), drawings.classes.repeat(VIEWS))


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale, shift and recolour each image ``(B, 3, H, W)`` a little; what comes into view is white.

    Nothing is mirrored: that would turn one arrow into another.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    angle, scale = uniform(-_ANGLE, _ANGLE), uniform(-_ZOOM, _ZOOM).exp()
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    x, y = uniform(-_SHIFT, _SHIFT), uniform(-_SHIFT, _SHIFT)
    saturation, gain = uniform(*_SATURATION, 1, 1, 1), uniform(*_GAIN, 3, 1, 1)
    rows = torch.stack([torch.stack([cos, sin, x], 1), torch.stack([-sin, cos, y], 1)], 1).to(images.device)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    drawn = 1 - F.grid_sample(1 - images, grid, align_corners=False)
    grey = drawn.mean(1, keepdim=True)
    coloured: Tensor = (grey + (drawn - grey) * saturation.to(images.device)) * gain.to(images.device)
    return coloured


def _read(samples: list[tuple[str, int]]) -> Drawings:
    images = torch.from_numpy(np.stack([_on_white(path) for path, _ in samples]))
    classes = torch.tensor([label for _, label in samples])
    return Drawings(images.permute(0, 3, 1, 2).float() / 255, classes)


def _on_white(path: str) -> np.ndarray:
    with Image.open(path) as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return np.asarray(white.convert("RGB"))
