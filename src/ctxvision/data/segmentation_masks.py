"""A mask file as classes, checked."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .error import BadImageError
from .files import open_regular
from .images import DECODER_ERRORS, open_picture, reason

_FORMATS = ("BMP", "GIF", "PNG", "TIFF")
_SMALL = ("L", "P", "1")  # modes whose values are below 256
_MODES = (*_SMALL, "I", "I;16")
_ROWS = 256  # that are looked at together


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
        with contextlib.ExitStack() as stack:
            if isinstance(source, str):
                source = stack.enter_context(open_picture(stack.enter_context(open_regular(source)), _FORMATS))
            source.load()
    except DECODER_ERRORS as error:
        raise BadImageError(name, reason(error)) from error
    mask = source
    if mask.mode not in _MODES:
        raise BadImageError(name, f"a mask has one number for every pixel; this one is in colour ({mask.mode})")
    if mask.size != size:
        raise BadImageError(name, f"is {mask.width} × {mask.height} pixels, its image {size[0]} × {size[1]}")
    values = np.asarray(mask).astype(np.uint8 if mask.mode in _SMALL else np.int64, copy=False)
    strange = _strange(values, table)
    if strange:
        classes = int(table[table != 255].max()) + 1
        raise BadImageError(name, f"value {strange[0]} is none of the {classes} classes, nor 255")
    return Image.fromarray(table.astype(np.uint8)[values])


def _strange(values: NDArray[Any], table: NDArray[np.int16]) -> list[Any]:
    """List the values of a mask that the table does not know."""
    outside = [] if values.dtype == np.uint8 else np.unique(values[(values < 0) | (values > 255)]).tolist()
    if outside:
        return outside
    # counting makes 64-bit numbers of what it counts
    rows = (values[top : top + _ROWS].ravel() for top in range(0, len(values), _ROWS))
    present = np.flatnonzero(sum(np.bincount(some, minlength=256) for some in rows))
    return [value for value in present.tolist() if table[value] < 0]
