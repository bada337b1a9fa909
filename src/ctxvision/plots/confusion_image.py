"""A confusion matrix of many classes, a pixel for each pair of classes."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BLUE, _ORANGE = (56, 132, 214), (214, 110, 34)  # legible on white and on black


def confusion_picture(confusion: NDArray[np.int64], side: int = 500) -> str:
    """Draw a confusion matrix of many classes as a PNG with a transparent background, and return its data URI.

    Right answers are blue, mistakes are orange; the opacity grows with the square root of the share of the row, so
    that single mistakes are visible.

    Args:
        confusion: The numbers of images, (classes, classes) int64; rows are true classes.
        side: The largest width and height in pixels; if there are more classes, neighbouring classes share a
            pixel.
    """
    size = len(confusion)
    block = -(-size // side)
    edges = np.arange(0, size, block)
    cells = np.add.reduceat(np.add.reduceat(confusion, edges, 0), edges, 1)
    right = np.add.reduceat(confusion.diagonal(), edges)
    diagonal = np.eye(len(cells), dtype=bool)
    cells[diagonal] = right
    images = np.add.reduceat(confusion.sum(1), edges)
    share = np.sqrt(cells / np.maximum(images, 1)[:, None])
    pixels = np.zeros((*cells.shape, 4), np.uint8)
    pixels[..., :3] = np.where(diagonal[..., None], _BLUE, _ORANGE)
    pixels[..., 3] = np.where(cells > 0, np.round(255 * (0.3 + 0.7 * share)), 0)
    pixels[cells == 0] = 0
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
