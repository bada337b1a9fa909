"""Boxes with their classes and scores, and masks, drawn on an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctxvision.foreign import visible

from .fonts import font_for
from .palette import OKABE_ITO

_SHOWN_SIDE = 320  # smaller images are enlarged to at least this, so that labels can be read
_FONT = 13
_VEIL = 0.45  # how much of a mask's pixels is colour

Box = Sequence[float]


def draw_boxes(
    picture: Image.Image,
    boxes: Sequence[Box],
    labels: Sequence[int],
    names: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: Sequence[Mapping[str, Any]] | None = None,
) -> Image.Image:
    """Draw boxes with their classes and scores, and masks, on an image; earlier boxes lie over later ones.

    Colours repeat after seven classes; the names tell them apart. Small images are enlarged, pixel by pixel.

    Args:
        picture: The image, of any mode; it is not changed.
        boxes: The N boxes as (x, y, width, height) in pixels.
        labels: The N class numbers, from 1; they choose the colours.
        names: The N texts to write at the boxes, usually the names of their classes.
        scores: The N scores, from 0 to 1, to write behind the names; ``None`` for true objects, which have no
            scores.
        masks: The N masks as large as the image, as COCO's compressed run-length codes.

    Returns:
        A new image in mode RGB, with its size in pixels unchanged or enlarged.
    """
    scale = max(1, -(-_SHOWN_SIDE // max(min(picture.size), 1)))
    size = (picture.width * scale, picture.height * scale)
    canvas = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
    if masks is not None:
        for mask, label in reversed(list(zip(masks, labels, strict=True))):
            canvas = _veil(canvas, mask, box_color(label))
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(min(size) / 250))
    places = [_corners(box, scale) for box in boxes]
    for box, label in reversed(list(zip(places, labels, strict=True))):
        outer = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
        pen.rectangle(outer, outline="black", width=width + 2)  # seen on any ground
        pen.rectangle(box, outline=box_color(label), width=width)
    texts = [visible(name) for name in names]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    _label(pen, places, [box_color(label) for label in labels], texts, size)
    return canvas


def _label(
    pen: ImageDraw.ImageDraw,
    boxes: Sequence[Box],
    colours: Sequence[str],
    texts: Sequence[str],
    size: tuple[int, int],
) -> None:
    """Write the texts above the boxes, or at places where they cover no other text."""
    taken: list[tuple[float, float, float, float]] = []
    for (x0, y0, x1, y1), colour, text in zip(boxes, colours, texts, strict=True):
        font = font_for(text, max(_FONT, round(min(size) / 40)))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 6, bottom - top + 4
        places = [(x0, y0 - height), (x0, y1), (x0, y0), (x1 - width, y1 - height), (x1, y0), (x0 - width, y0)]
        inside = [
            (min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0))) for x, y in places
        ]
        rectangles = [(x, y, x + width, y + height) for x, y in inside]
        # the first that is free, else the usual one
        place = next((r for r in rectangles if not any(_meet(r, other) for other in taken)), rectangles[0])
        taken.append(place)
        pen.rectangle(place, fill=colour)
        pen.text((place[0] + 3 - left, place[1] + 2 - top), text, fill=_ink(colour), font=font)


def _veil(canvas: Image.Image, code: Mapping[str, Any], colour: str) -> Image.Image:
    from faster_coco_eval import mask as codes

    mask: NDArray[np.uint8] = codes.decode(dict(code))
    enlarged = Image.fromarray(mask * round(255 * _VEIL)).resize(canvas.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", canvas.size, colour), canvas, enlarged)


def box_color(label: int) -> str:
    """Return the colour, ``#rrggbb``, in which `draw_boxes` shows the class with a number from 1."""
    return OKABE_ITO[(label - 1) % len(OKABE_ITO)]


def _ink(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour (relative luminance as in WCAG 2)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return "black" if linear[0] * 0.2126 + linear[1] * 0.7152 + linear[2] * 0.0722 > 0.179 else "white"


def _corners(bbox: Box, scale: int) -> tuple[float, float, float, float]:
    x, y, width, height = (value * scale for value in bbox)
    return x, y, x + max(width - 1, 0), y + max(height - 1, 0)


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
