"""A mask file as classes, checked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .error import BadImageError
from .images import reason

_FORMATS = ("BMP", "GIF", "PNG", "TIFF")
_MODES = ("L", "P", "1", "I", "I;16")


def read_mask(
    source: str | Image.Image, table: NDArray[np.int16], size: tuple[int, int], name: str
) -> Image.Image:
    """Decode a mask and translate its values into classes.

    The indices of a palette image are its values, whatever the colours.

    Args:
        source: path of a PNG, BMP, GIF or TIFF file, or an image of PIL's.
        table: (256,) from values to classes, below 0 for values that no mask may have.
        size: (width, height) of the image that it belongs to.
        name: what to call it in errors.

    Returns:
        An image of 8 bits: classes, and 255 where there is none.

    Raises:
        BadImageError: missing, truncated, of another size than its image, in colour, or with values that are no
            classes.
    """
    try:
        with source if isinstance(source, Image.Image) else Image.open(source, formats=_FORMATS) as mask:
            mask.load()
            if mask.mode not in _MODES:
                raise ValueError(f"a mask has one number for every pixel; this one is in colour ({mask.mode})")
            if mask.size != size:
                raise ValueError(f"is {mask.width} × {mask.height} pixels, its image {size[0]} × {size[1]}")
            values = np.asarray(mask).astype(np.int64)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise BadImageError(name, reason(error)) from error
    strange = _strange(values, table)
    if strange:
        classes = int(table[table != 255].max()) + 1
        raise BadImageError(name, f"value {strange[0]} is none of the {classes} classes, nor 255")
    return Image.fromarray(table[values].astype(np.uint8))


def _strange(values: NDArray[np.int64], table: NDArray[np.int16]) -> list[Any]:
    """List the values of a mask that the table does not know."""
    outside = values[(values < 0) | (values > 255)]
    if outside.size:
        return np.unique(outside).tolist()
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return [value for value in present.tolist() if table[value] < 0]
