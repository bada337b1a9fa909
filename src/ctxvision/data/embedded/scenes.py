"""Scenes of handwritten digits on textured grounds: the embedded data set for detection and segmentation."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctxvision.data.error import DataError
from ctxvision.data.options import check_options

from .digits import CLASS_NAMES, digit_keys, held_out_digits, load_digits

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
SEMANTIC_NAMES = ("background", *CLASS_NAMES)
IGNORED = 255
MOST_DIGITS = 6
HEIGHTS = (0.16, 0.5)  # of a digit, as a share of the scene's side
_VISIBLE = 0.55  # no digit loses more of its ink to the others
_CONTRAST = 0.22  # least difference in brightness between a digit and the ground under it
_EMPTY = 0.03  # share of the scenes without any digit
_RANGES = {
    "size": (48, 4096),
    "digits": (1, 30),
    "smallest": (10, 90),
    "largest": (10, 90),
    "seed": (0, 9_999_999),
}


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it, in the order in which the digits lie upon each other.

    Attributes:
        image: The picture, (H, W, 3) uint8.
        boxes: The boxes around the visible parts, (N, 4) float32, as ``x0, y0, x1, y1`` in pixels; ``x1`` and
            ``y1`` lie outside.
        labels: The digits, (N,) int64.
        masks: The visible part of each digit, (N, H, W) bool.
        semantic: The class of each pixel, (H, W) uint8: 0 is the background, ``1 + digit`` a digit, 255 the
            blurred rim of a digit, which is neither.
        sources: The number of each digit in scikit-learn's set, (N,) int64.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    semantic: NDArray[np.uint8]
    sources: NDArray[np.int64]


def make_scene(
    seed: int,
    index: int,
    size: int = 96,
    split: Split = "train",
    *,
    digits: int = MOST_DIGITS,
    heights: tuple[float, float] = HEIGHTS,
) -> Scene:
    """Compose one scene: a textured ground, clutter, and digits of many sizes that overlap.

    The scene follows from the arguments alone. The digits of ``val`` are those that `DigitsData` holds out: none
    of them comes up in ``train``. A digit is turned by up to 15°, sheared, coloured,
    keeps more than half of its ink visible, and differs from the ground under it in brightness.

    Args:
        seed: The seed of the whole set.
        index: The number of the scene in the set.
        size: The height and width in pixels, at least 48.
        split: The part of the digits to draw from: ``"train"`` or ``"val"``.
        digits: The largest number of digits; there are as many only where there is room.
        heights: The heights of the smallest and of the largest digit, as shares of ``size``.

    Raises:
        DataError: The size is too small, or there is no such split.
    """
    if size < 48:
        raise DataError(f"digits-scenes: scenes must be at least 48 pixels wide, got {size}")
    if split not in SPLITS:
        raise DataError(f"digits-scenes: no split {split!r}; there are {', '.join(SPLITS)}")
    random = np.random.default_rng((seed, SPLITS.index(split), index))
    picture = _clutter(random, _ground(random, size))
    inks: list[NDArray[np.float64]] = []
    sources: list[int] = []
    pixels, labels, of_split = _sources(split)
    wanted = 0 if random.random() < _EMPTY else random.integers(1, digits + 1)
    for _ in range(4 * wanted):  # a digit that hides too much of another is tried elsewhere
        if len(inks) == wanted:
            break
        source = int(random.choice(of_split))
        ink = _place(random, _draw(random, pixels[source], size, heights), size)
        if _leaves_visible([*inks, ink]):
            inks.append(ink)
            sources.append(source)
            picture = _paint(random, picture, ink)
    picture = picture + random.normal(0, 0.02, picture.shape)
    image = np.clip(picture * 255, 0, 255).round().astype(np.uint8)
    chosen = np.array(sources, dtype=np.int64)
    masks = _visible(inks, size)
    return Scene(image, boxes_around(masks), labels[chosen], masks, _semantic(inks, labels[chosen], size), chosen)


@dataclass(frozen=True)
class SceneOptions:
    """The number, the size and the contents of a set of scenes; see `make_scene`.

    Attributes:
        train: The number of training scenes.
        val: The number of validation scenes.
        size: The height and width in pixels.
        digits: The largest number of digits in a scene.
        smallest: The height of the smallest digit, in percent of ``size``.
        largest: The height of the largest digit, in percent of ``size``.
        seed: The seed of the set.
    """

    train: int = 1500
    val: int = 200
    size: int = 96
    digits: int = MOST_DIGITS
    smallest: int = round(100 * HEIGHTS[0])
    largest: int = round(100 * HEIGHTS[1])
    seed: int = 0

    @classmethod
    def read(cls, where: str, options: Mapping[str, str]) -> "SceneOptions":
        """Read the options of a DATA argument.

        Raises:
            DataError: There is no such option, or a value is out of range.
        """
        values = asdict(cls())
        for name, text in check_options(where, options, tuple(values)).items():
            lowest, highest = _RANGES.get(name, (1, 9_999_999))
            if not re.fullmatch("[0-9]{1,7}", text) or not lowest <= int(text) <= highest:
                raise DataError(f"{where}: {name} must be a whole number from {lowest} to {highest}, got {text!r}")
            values[name] = int(text)
        if values["smallest"] > values["largest"]:
            raise DataError(f"{where}: smallest={values['smallest']} is more than largest={values['largest']}")
        return cls(**values)

    def count(self, split: Split) -> int:
        """Return the number of scenes of a split."""
        return self.train if split == "train" else self.val

    def scenes(self, split: Split) -> Iterator[Scene]:
        """Compose the scenes of a split, one after the other."""
        return (self.make(split, index) for index in range(self.count(split)))

    def make(self, split: Split, index: int) -> Scene:
        """Compose one scene of a split."""
        heights = self.smallest / 100, self.largest / 100
        return make_scene(self.seed, index, self.size, split, digits=self.digits, heights=heights)


def boxes_around(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the boxes (N, 4) around masks (N, H, W), none of which is empty."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


@functools.cache
def _sources(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return all digits (N, 8, 8), their classes, and the numbers of those that belong to a split."""
    pixels, targets = load_digits()
    of_val = held_out_digits(digit_keys(targets))  # as `DigitsData` splits by default
    return pixels.numpy(), targets.numpy(), torch.nonzero(of_val if split == "val" else ~of_val)[:, 0].numpy()


def _ground(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw a ground (H, W, 3) in [0, 1]: two colours mixed by noise of several scales, or by noisy stripes."""
    mix = np.zeros((size, size))
    for octave, weight in zip((3, 6, 12, 24), random.dirichlet((2.0, 1.5, 1.0, 0.5)), strict=True):
        noise = Image.fromarray(random.random((octave, octave)).astype(np.float32))
        mix += weight * np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
    if random.random() < 0.5:
        angle, waves = random.uniform(0, np.pi), random.uniform(2, 7)
        y, x = np.mgrid[:size, :size] / size
        mix = 0.5 * mix + 0.25 * (1 + np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle) + mix)))
    base = random.uniform(0.15, 0.85, 3)
    colours = np.clip(base + random.uniform(-0.25, 0.25, (2, 3)), 0, 1)
    mix = np.clip(mix, 0, 1)[..., None]
    ground: NDArray[np.float64] = colours[0] * mix + colours[1] * (1 - mix)
    return ground


def _clutter(random: np.random.Generator, picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw strokes, discs and polygons that are no digits."""
    size, twice = len(picture), 2 * len(picture)
    canvas = Image.fromarray((picture * 255).round().astype(np.uint8)).resize((twice, twice))
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.integers(3, 9)):
        colour = tuple(random.integers(0, 256, 3).tolist())
        x, y = random.uniform(0, twice, 2)
        reach = random.uniform(0.04, 0.2) * twice
        around = [(x + reach * dx, y + reach * dy) for dx, dy in random.uniform(-1, 1, (4, 2))]
        kind = random.integers(3)
        if kind == 0:
            draw.line(around[: random.integers(2, 5)], colour, width=int(random.integers(2, 7)), joint="curve")
        elif kind == 1:
            draw.ellipse((x, y, x + reach * random.uniform(0.4, 1), y + reach * random.uniform(0.4, 1)), colour)
        else:
            draw.polygon(around[:3], colour)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64) / 255


def _draw(
    random: np.random.Generator, digit: NDArray[np.uint8], size: int, heights: tuple[float, float]
) -> NDArray[np.float64]:
    """Enlarge a digit (8, 8), turned and sheared a little: its ink, in [0, 1], cut to where there is any."""
    height = size * np.exp(random.uniform(*np.log(heights)))
    angle, shear = random.uniform(-np.pi / 12, np.pi / 12), random.uniform(-0.15, 0.15)
    scale = 8 / height / np.array([[random.uniform(0.8, 1.1)], [1.0]])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = scale * (np.array([[1, shear], [0, 1]]) @ turn)
    side = int(np.ceil(height * 2))
    shift = 6 - matrix @ np.array([side / 2, side / 2])
    padded = Image.fromarray(np.pad(digit, 2))
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    drawn = padded.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    ink: NDArray[np.float64] = np.clip((np.asarray(drawn, dtype=np.float64) / 255 - 0.33) / 0.3, 0, 1)
    rows, columns = np.flatnonzero((ink >= 0.5).any(1)), np.flatnonzero((ink >= 0.5).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(random: np.random.Generator, ink: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Put the ink somewhere into an empty scene."""
    ink = ink[:size, :size]
    top, left = (int(random.integers(0, size - side + 1)) for side in ink.shape)
    placed = np.zeros((size, size))
    placed[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return placed


def _paint(
    random: np.random.Generator, picture: NDArray[np.float64], ink: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw the ink in a colour that is brighter or darker than the ground under it."""
    brightness = np.array([0.299, 0.587, 0.114])
    under = float((picture[ink >= 0.5] @ brightness).mean())
    colour = random.uniform(0, 1, 3)
    while abs(float(colour @ brightness) - under) < _CONTRAST:
        colour = random.uniform(0, 1, 3)
    return picture * (1 - ink[..., None]) + colour * ink[..., None]


def _visible(inks: list[NDArray[np.float64]], size: int) -> NDArray[np.bool_]:
    """Return what later inks leave of the earlier ones."""
    masks = np.zeros((len(inks), size, size), dtype=bool)
    covered = np.zeros((size, size), dtype=bool)
    for index in reversed(range(len(inks))):
        masks[index] = (inks[index] >= 0.5) & ~covered
        covered |= inks[index] >= 0.5
    return masks


def _leaves_visible(inks: list[NDArray[np.float64]]) -> bool:
    visible = _visible(inks, len(inks[0])).sum((1, 2))
    return all(v > _VISIBLE * (ink >= 0.5).sum() for v, ink in zip(visible, inks, strict=True))


def _semantic(inks: list[NDArray[np.float64]], labels: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    semantic = np.zeros((size, size), dtype=np.uint8)
    for ink, label in zip(inks, labels, strict=True):
        semantic[ink >= 0.3] = IGNORED
        semantic[ink >= 0.7] = label + 1
    return semantic
