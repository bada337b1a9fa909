"""Pictures of the classes of pixels: colours over the image, a legend, and a file that holds the classes."""

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
    """Return the colours (H, W, 3) uint8 of classes (H, W); pixels without class (255) are black.

    Args:
        classes: The class of every pixel, (H, W), from 0; 255 where a pixel has no class.
        colors: The colours of the classes as (red, green, blue) from 0 to 255, one per class.

    Raises:
        ValueError: A class has no colour.
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    return table[_checked(classes, len(colors))]


def overlay(image: Image.Image, classes: ArrayLike, colors: Sequence[Color], opacity: float = 0.55) -> Image.Image:
    """Lay the colours of classes over an image of the same size in grey; pixels without class are darkened.

    Over the image's own colours those of the classes would not be the ones in a legend.

    Args:
        image: The image, of any mode, H pixels high and W wide.
        classes: The class of every pixel, (H, W), from 0; 255 where a pixel has no class.
        colors: The colours of the classes as (red, green, blue) from 0 to 255, one per class.
        opacity: The opacity of the colours, from 0 to 1.

    Returns:
        A new image in mode RGB.

    Raises:
        ValueError: The classes have another size than the image, or a class has no colour.
    """
    painted = Image.fromarray(colorize(classes, colors))
    if painted.size != image.size:
        raise ValueError(f"the classes are {painted.size}, the image is {image.size}, in pixels")
    return Image.blend(image.convert("L").convert("RGB"), painted, opacity)


def class_map(classes: ArrayLike, colors: Sequence[Color]) -> Image.Image:
    """Return a palette image whose values are classes and whose palette holds their colours; save it as PNG.

    Opened again, ``numpy.asarray(Image.open(file))`` gives the classes, so that the file can be used as a mask for
    training.

    Args:
        classes: The class of every pixel, (H, W), from 0; 255 where a pixel has no class.
        colors: The colours of the classes as (red, green, blue) from 0 to 255, one per class.

    Raises:
        ValueError: A class has no colour.
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
    """Put the names and shares of the classes in a picture to its right, the most frequent first.

    Args:
        picture: The picture that `overlay` returned.
        classes: The class of every pixel of the picture, (H, W), from 0; 255 where a pixel has no class.
        class_names: The names of the classes, one per class.
        colors: The colours of the classes as (red, green, blue) from 0 to 255, one per class.
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
