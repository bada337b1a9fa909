"""``moving-digits``: clips of handwritten digits whose class is the motion, which no single frame shows."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .digits import digit_keys, held_out_digits, load_digits

MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "grow", "shrink")
_AXES = {"left": 0, "right": 0, "up": 1, "down": 1, "clockwise": 2, "counterclockwise": 2, "grow": 3, "shrink": 3}
_SIGNS = {
    "left": -1,
    "right": 1,
    "up": -1,
    "down": 1,
    "clockwise": 1,
    "counterclockwise": -1,
    "grow": 1,
    "shrink": -1,
}

# of each axis (x, y in half widths of the picture; angle; logarithm of the size): range of the middle of a motion,
# and range of how far it goes from the first frame to the last
_MIDDLE = ((-0.3, 0.3), (-0.3, 0.3), (-math.pi, math.pi), (-0.12, 0.12))
_EXTENT = ((0.7, 1.0), (0.7, 1.0), (1.2, 1.8), (0.55, 0.8))
_RADIUS = 0.54  # half a digit's width, in half widths of the picture, at size 1
_CHUNK = 256  # clips drawn at a time


def draw_places(labels: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Draw motions: one axis moves evenly, the three others rest.

    An axis rests where one that moves is in a frame chosen by chance. So a frame, taken by chance from a clip, has
    the same distribution whatever the class is; and a clip played backwards is one of the opposite class.

    Args:
        labels: The number of each clip's motion in `MOTIONS`, (N,).
        frames: T, at least 2.
        generator: The generator of the random numbers; as many are drawn for every class.

    Returns:
        The positions, (N, T, 4): x to the right and y down, in half widths of the picture from its centre; the
        angle, clockwise, in radians; the logarithm of the size.
    """
    count = len(labels)
    low, high = torch.tensor(_MIDDLE, dtype=torch.float32, device="cpu").unbind(1)
    middle = low + (high - low) * torch.rand(count, 4, generator=generator, dtype=torch.float32, device="cpu")
    low, high = torch.tensor(_EXTENT, dtype=torch.float32, device="cpu").unbind(1)
    extent = low + (high - low) * torch.rand(count, 4, generator=generator, dtype=torch.float32, device="cpu")
    resting = torch.randint(frames, (count, 1, 4), generator=generator, device="cpu")
    axes = torch.tensor([_AXES[name] for name in MOTIONS], device="cpu")[labels]
    signs = torch.tensor([_SIGNS[name] for name in MOTIONS], device="cpu")[labels]
    moves = F.one_hot(axes, 4).bool().unsqueeze(1)  # (N, 1, 4)
    forward = torch.arange(frames, device="cpu").view(1, -1, 1)
    at = torch.where(signs.view(-1, 1, 1) > 0, forward, frames - 1 - forward)  # played backwards, exactly
    steps = torch.where(moves, at, resting).float() / (frames - 1) - 0.5
    return middle.unsqueeze(1) + extent.unsqueeze(1) * steps


def draw_clips(digits: Tensor, places: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw digits (N, 8, 8) uint8 where they are, bright on a dark texture: (N, T, 3, size, size) uint8."""
    count, frames = places.shape[:2]
    background = _textures(count, size, generator).unsqueeze(1)  # (N, 1, 3, S, S)
    ink = 0.75 + 0.25 * torch.rand(count, 1, 3, 1, 1, generator=generator, dtype=torch.float32, device="cpu")
    x, y, angle, scale = places.reshape(-1, 4).unbind(1)
    zoom = torch.exp(-scale) / _RADIUS
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # where in the digit a pixel of the picture lies
    rows = [torch.stack([cos, sin, -(cos * x + sin * y)], 1), torch.stack([-sin, cos, sin * x - cos * y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [count * frames, 1, size, size], align_corners=False)
    strokes = digits.float().div(255)[:, None, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    alpha = F.grid_sample(strokes, grid, align_corners=False).view(count, frames, 1, size, size)
    return (background + (ink - background) * alpha).mul(255).round().to(torch.uint8)


def _textures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw smooth random colours, (N, 3, size, size) in [0, 0.45]."""
    coarse, fine = (
        torch.rand(count, 3, n, n, generator=generator, dtype=torch.float32, device="cpu") for n in (3, 8)
    )
    coarse, fine = (F.interpolate(n, (size, size), mode="bilinear", align_corners=True) for n in (coarse, fine))
    return 0.35 * coarse + 0.1 * fine


class MovingDigits:
    """Clips in memory, always alike for the same arguments; the two parts show different handwritten digits.

    Args:
        split: The part of scikit-learn's digits to show; a fifth of them is kept for ``val``.
        clips: The number of clips; classes take turns.
        frames: The number of frames of each clip.
        size: The height and width of a frame, in pixels.
        seed: The seed of the motions, the textures and the choice of digits; which digits are kept for ``val``
            does not depend on it.

    Attributes:
        clips: The clips, (N, T, 3, size, size) uint8.
        labels: The number of each clip's motion in `MOTIONS`, (N,) int64.
        sources: The number of the digit that each clip shows in scikit-learn's set, (N,) int64.
    """

    def __init__(
        self, split: Literal["train", "val"], clips: int, *, frames: int = 8, size: int = 32, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(2 * seed + (split == "val"))
        pixels, kinds = load_digits()
        pool = torch.nonzero(held_out_digits(digit_keys(kinds)) == (split == "val"))[:, 0]
        self.labels = torch.arange(clips, device="cpu") % len(MOTIONS)
        self.sources = pool[torch.randint(len(pool), (clips,), generator=generator, device="cpu")]
        parts = []
        for labels, sources in zip(self.labels.split(_CHUNK), self.sources.split(_CHUNK), strict=True):
            places = draw_places(labels, frames, generator)
            parts.append(draw_clips(pixels[sources], places, size, generator))
        self.clips = (
            torch.cat(parts) if parts else torch.empty(0, frames, 3, size, size, dtype=torch.uint8, device="cpu")
        )

    def names(self) -> Sequence[str]:
        """Name the clips by class and number."""
        return [f"{MOTIONS[label]}/{index:05d}" for index, label in enumerate(self.labels.tolist())]
