"""Classes of pixels as pictures: colours over the image, a legend, and a file that holds the classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from ctxvision.foreign import visible

from .fonts import font_for

Color = Sequence[int]
_NOTHING = 255
_ROW, _SWATCH, _MARGIN = 18, 12, 6  # pixels of a legend


def colorize(classes: ArrayLike, colors: Sequence[Color]) -> NDArray[np.uint8]:
    """Return the colours (H, W, 3) of classes (H, W); black where there is none (255).

    Raises:
        ValueError: a class without a colour.
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    return table[_checked(classes, len(colors))]


def overlay(image: Image.Image, classes: ArrayLike, colors: Sequence[Color], opacity: float = 0.55) -> Image.Image:
    """Lay the colours of classes over an image of the same size; where there is no class the image is darkened.

    Args:
        image: in any mode.
        classes: (H, W), 255 for none.
        colors: one per class.
        opacity: of the colours, 0 to 1.

    Raises:
        ValueError: another size, or a class without a colour.
    """
    painted = Image.fromarray(colorize(classes, colors))
    if painted.size != image.size:
        raise ValueError(f"the classes are {painted.size}, the image is {image.size}, in pixels")
    return Image.blend(image.convert("RGB"), painted, opacity)


def class_map(classes: ArrayLike, colors: Sequence[Color]) -> Image.Image:
    """Return a palette image whose values are the classes and whose colours are theirs; save it as PNG.

    Read back with ``numpy.asarray(Image.open(file))`` it gives the classes; as a mask for training it is ready.

    Raises:
        ValueError: a class without a colour.
    """
    values = _checked(classes, len(colors)).astype(np.uint8)
    picture = Image.frombytes("P", values.shape[::-1], values.tobytes())
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    picture.putpalette(table.ravel().tolist())
    return picture


def with_legend(
    picture: Image.Image, classes: ArrayLike, class_names: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    """Put the names and shares of the classes that occur to the right of a picture, the most frequent first.

    Args:
        picture: as `overlay` returns it.
        classes: (H, W), what it shows.
        class_names: one per class.
        colors: likewise.
    """
    counts = np.bincount(_checked(classes, len(colors)).ravel(), minlength=256)[: len(colors)]
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    lines = [(index, _line(class_names[index], counts[index] / counts.sum())) for index in order]
    font = font_for("".join(line for _, line in lines), 12)
    left = picture.width + _MARGIN
    width = left + _SWATCH + 2 * _MARGIN + max((round(font.getlength(line)) for _, line in lines), default=0)
    canvas = Image.new("RGB", (width, max(picture.height, _MARGIN + _ROW * len(lines))), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for row, (index, line) in enumerate(lines):
        top = _MARGIN + row * _ROW
        square = (left, top, left + _SWATCH, top + _SWATCH)
        draw.rectangle(square, fill=tuple(colors[index]), outline="black")
        draw.text((left + _SWATCH + _MARGIN, top - 1), line, fill="black", font=font)
    return canvas


def _line(name: str, share: float) -> str:
    name = visible(name)
    return f"{name} {share:.1%}" if share >= 0.001 else f"{name} <0.1%"


def _checked(classes: ArrayLike, count: int) -> NDArray[np.int64]:
    values = np.asarray(classes).astype(np.int64)
    strange = values[(values != _NOTHING) & ((values < 0) | (values >= count))]
    if strange.size:
        raise ValueError(f"class {strange[0]} has no colour; there are {count}")
    return values
