"""Grad-CAM for parts of an image: boxes, or the pixels of a class; and for the frames of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctxvision.plots.style import HEAT, WIDTH, Ink, Picture, bare, color_bar, enlarged, make_picture, new_figure

from .cam import overlay

_COLUMNS = 4  # frames in a row


@dataclass(frozen=True)
class Part:
    """One row of `parts_picture`.

    Attributes:
        words: what it is, a few words.
        box: x0, y0, x1, y1 in pixels, (4,); or ``None``.
        mask: its pixels, (H, W) bool; or ``None``.
        cam: Grad-CAM in [0, 1], (H, W); ``None`` where there is nothing to explain.
        in_place: likewise, weighed in place.
    """

    words: str
    box: np.ndarray | None = None
    mask: np.ndarray | None = None
    cam: np.ndarray | None = None
    in_place: np.ndarray | None = None


def parts_picture(
    image: np.ndarray, parts: Sequence[Part], name: str, *, title: str, caption: str, missing: str
) -> Picture:
    """Draw parts of an image, one in a row, beside what speaks for them.

    Args:
        image: RGB in [0, 1], (H, W, 3).
        parts: at least one.
        name: of the picture.
        title: of the picture.
        caption: what to add to it.
        missing: words for rows without maps.
    """
    height, width = image.shape[:2]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(len(parts) * (WIDTH / 3 * height / width + 0.3) + 0.75)
        axes = figure.subplots(len(parts), 3, squeeze=False)
        for row, (places, part) in enumerate(zip(axes, parts, strict=True)):
            heads = (part.words, "Grad-CAM", "in place") if row == 0 else (part.words, "", "")
            _draw(places[0], image, part.mask, (height, width))
            for place, heat in zip(places[1:], (part.cam, part.in_place), strict=True):
                if heat is None:
                    place.set_axis_off()
                else:
                    _draw(place, overlay(image, heat), None, (height, width))
            for place, head, heat in zip(places, heads, (image, part.cam, part.in_place), strict=True):
                if heat is None:
                    continue
                bare(place, ink, head)
                if part.box is not None:
                    _frame(place, part.box, ink)
            if part.cam is None:
                places[1].text(0, 0.5, missing, transform=places[1].transAxes, color=ink.text, va="center")
        if any(part.cam is not None for part in parts):
            color_bar(figure, axes, ink, HEAT, 0, 1, "evidence (share of the highest)")
        return figure

    words = "; ".join(f"{part.words}: {_where(part, missing)}" for part in parts)
    return make_picture(draw, name, pixels=True, title=title, alt=f"Grad-CAM; {words}", caption=caption)


def frames_picture(
    frames: np.ndarray, maps: np.ndarray, names: Sequence[str], name: str, *, title: str, caption: str
) -> Picture:
    """Draw the frames of a clip, each above what speaks for the class in it.

    Args:
        frames: RGB in [0, 1], (T, H, W, 3).
        maps: (T, H, W) in [0, 1].
        names: one per frame.
        name: of the picture.
        title: of the picture.
        caption: what to add to it.
    """
    columns = max(min(len(frames), _COLUMNS), 2)
    rows = -(-len(frames) // columns)
    height, width = frames.shape[1:3]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(2 * rows * WIDTH / columns * height / width + 0.25 * rows + 0.75)
        axes = figure.subplots(2 * rows, columns, squeeze=False)
        for place in axes.flat[len(frames) :]:
            place.set_visible(False)
        for index, (frame, heat) in enumerate(zip(frames, maps, strict=True)):
            above, below = axes[2 * (index // columns) : 2 * (index // columns) + 2, index % columns]
            above.set_visible(True)
            below.set_visible(True)
            above.imshow(enlarged(frame), interpolation="none")
            below.imshow(enlarged(overlay(frame, heat)), interpolation="none")
            bare(above, ink, names[index])
            bare(below, ink)
        color_bar(figure, axes, ink, HEAT, 0, 1, "evidence (share of the highest in the clip)")
        return figure

    highest = maps.max((1, 2))
    words = ", ".join(f"{frame} {value:.0%}" for frame, value in zip(names, highest, strict=True))
    return make_picture(
        draw, name, pixels=True, title=title, alt=f"Grad-CAM by frame; highest values: {words}", caption=caption
    )


def _draw(place: Axes, image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> None:
    extent = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
    shown = image
    if mask is not None:  # what is not of it is dimmed and grey
        grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
        shown = np.where(mask[..., None], image, 0.25 * grey)
    place.imshow(enlarged(shown), interpolation="none", extent=extent)


def _frame(place: Axes, box: np.ndarray, ink: Ink) -> None:
    x0, y0, x1, y1 = box - 0.5  # a box covers pixels, whose centres have whole numbers
    for color, line in (("black", 2.6), ("white", 1.2)):  # seen on any ground
        place.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line))


def _where(part: Part, missing: str) -> str:
    if part.cam is None or part.in_place is None:
        return missing
    if not part.in_place.max() > 0:
        return "no evidence in place"
    y, x = np.unravel_index(part.in_place.argmax(), part.in_place.shape)
    rows, columns = part.in_place.shape
    return f"most in place at {(x + 0.5) / columns:.0%} from the left and {(y + 0.5) / rows:.0%} from the top"
