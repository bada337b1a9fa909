"""A fine-grained task composed from scikit-learn's digits: ordered pairs of digits on clutter."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are composed; lengths in pixels of the scene, angles in degrees."""

    digits: int = 8
    """From which pairs are made: 0 to ``digits - 1``."""
    side: int = 32
    """Height and width."""
    train_per_class: int = 10
    test_per_class: int = 20
    train_sources: float = 0.6
    """Share of the handwritten digits from which the training scenes are composed; the others make the test."""
    digit_side: tuple[float, float] = (14.0, 17.0)
    """Side of the 8 x 8 digit after scaling, from and to."""
    angle: float = 10.0
    """Largest rotation of a digit, either way."""
    left: tuple[float, float] = (8.0, 10.0)
    """Centre of the left digit; the right one's is its mirror image."""
    height: tuple[float, float] = (11.0, 21.0)
    """Vertical centre, of each digit by itself."""
    fragments: int = 4
    """Pieces of other digits, anywhere."""
    fragment_cells: int = 3
    """Side of a piece before scaling, in pixels of the 8 x 8 digit."""
    contrast: tuple[float, float] = (0.6, 1.0)
    """Of the two digits."""
    fragment_contrast: tuple[float, float] = (0.3, 0.7)
    """Of the pieces."""
    noise: float = 0.05
    """Standard deviation of the Gaussian noise on every pixel."""

    def pairs(self) -> list[tuple[int, int]]:
        """Return the left and the right digit of every class: all ordered pairs of two different digits."""
        return list(itertools.permutations(range(self.digits), 2))


class Sources(NamedTuple):
    """The handwritten digits of one split."""

    pixels: Tensor
    """``(N, 8, 8)`` in 0..1."""
    digits: Tensor
    """Which digit each is, ``(N,)`` int64."""
    indices: Tensor
    """Where each stands in scikit-learn's data set, ``(N,)`` int64."""


class Scenes(NamedTuple):
    """Composed images with one class each."""

    images: Tensor
    """``(N, 1, side, side)``, about 0..1 before the noise."""
    classes: Tensor
    """Numbers of the pairs in `SceneSettings.pairs`, ``(N,)`` int64."""
    used: Tensor
    """Indices in scikit-learn's data set of the digits in a scene: left, right, those of the fragments;
    ``(N, 2 + fragments)``."""


def split_sources(share: float, seed: int) -> tuple[Sources, Sources]:
    """Return the digits for training and those for the test, disjoint.

    Args:
        share: Of each of the ten digits that goes to training.
        seed: Of the choice.
    """
    raw = load_digits()
    pixels = torch.from_numpy(raw.images).float() / 16
    digits = torch.from_numpy(raw.target).long()
    generator = torch.Generator().manual_seed(seed)
    first, second = [], []
    for digit in digits.unique().tolist():
        members = (digits == digit).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        cut = round(share * len(members))
        first.append(members[:cut])
        second.append(members[cut:])
    train, test = torch.cat(first), torch.cat(second)
    return Sources(pixels[train], digits[train], train), Sources(pixels[test], digits[test], test)


def make_scenes(settings: SceneSettings, seed: int) -> tuple[Scenes, Scenes]:
    """Return training and test scenes from disjoint digits, every class equally often; ``seed`` decides all."""
    train, test = split_sources(settings.train_sources, seed)
    return (
        compose(train, settings, settings.train_per_class, 2 * seed + 1_000_003),
        compose(test, settings, settings.test_per_class, 2 * seed + 1_000_004),
    )


def compose(sources: Sources, settings: SceneSettings, per_class: int, seed: int) -> Scenes:
    """Compose ``per_class`` scenes of each ordered pair, in random order.

    Fragments lie at the bottom, the two digits over them; where they overlap, the brighter pixel wins.

    Args:
        sources: Digits to compose from.
        settings: How.
        per_class: Scenes of each class.
        seed: Of everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.tensor(settings.pairs())
    count = len(pairs) * per_class
    classes = torch.arange(len(pairs)).repeat(per_class)[torch.randperm(count, generator=generator)]
    canvas = torch.zeros(count, 1, settings.side, settings.side)
    used = []
    for _ in range(settings.fragments):
        chosen = torch.randint(len(sources.digits), (count,), generator=generator)
        pieces = sources.pixels[chosen] * _windows(count, settings.fragment_cells, generator)
        centres = _uniform((0.0, float(settings.side)), (count, 2), generator)
        canvas = torch.maximum(
            canvas, _place(pieces, centres, 180.0, settings.fragment_contrast, settings, generator)
        )
        used.append(sources.indices[chosen])
    for place, digits in enumerate(pairs[classes].unbind(1)):
        chosen = _of_digit(sources, digits, generator)
        x = _uniform(settings.left, (count,), generator)
        y = _uniform(settings.height, (count,), generator)
        centres = torch.stack([x if place == 0 else settings.side - x, y], 1)
        drawn = _place(sources.pixels[chosen], centres, settings.angle, settings.contrast, settings, generator)
        canvas = torch.maximum(canvas, drawn)
        used.insert(place, sources.indices[chosen])
    noise = settings.noise * torch.randn(canvas.shape, generator=generator)
    return Scenes(canvas + noise, classes, torch.stack(used, 1))


def _of_digit(sources: Sources, digits: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each wanted digit a random position among ``sources``."""
    chosen = torch.empty_like(digits)
    for digit in digits.unique().tolist():
        members = (sources.digits == digit).nonzero().flatten()
        wanted = (digits == digit).nonzero().flatten()
        chosen[wanted] = members[torch.randint(len(members), (len(wanted),), generator=generator)]
    return chosen


def _windows(count: int, cells: int, generator: torch.Generator) -> Tensor:
    """Return masks ``(count, 8, 8)`` that are 1 in a random square of ``cells`` pixels."""
    starts = torch.randint(8 - cells + 1, (2, count, 1), generator=generator)
    line = torch.arange(8)
    rows, columns = ((line >= start) & (line < start + cells) for start in starts)
    windows: Tensor = rows[:, :, None] & columns[:, None, :]
    return windows.float()


def _place(
    pieces: Tensor,
    centres: Tensor,
    angle: float,
    contrast: tuple[float, float],
    settings: SceneSettings,
    generator: torch.Generator,
) -> Tensor:
    """Draw each piece ``(N, 8, 8)``, scaled, turned, moved and dimmed, on black; ``(N, 1, side, side)``."""
    count, half = len(pieces), settings.side / 2
    scale = 2 * half / _uniform(settings.digit_side, (count,), generator)
    turn = _uniform((-angle, angle), (count,), generator) * math.pi / 180
    brightness = _uniform(contrast, (count,), generator)
    # from a place in the scene back to one in the piece, both in -1..1
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    x, y = (centres / half - 1).unbind(1)
    rows = [torch.stack([cos, sin, -cos * x - sin * y], 1), torch.stack([-sin, cos, sin * x - cos * y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, settings.side, settings.side], align_corners=False)
    drawn = F.grid_sample(pieces[:, None], grid, align_corners=False)
    return drawn * brightness[:, None, None, None]


def _uniform(bounds: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)
