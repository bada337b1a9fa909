"""Mask files: decoded, checked, and translated into classes."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.error import BadImageError
from ctxvision.data.files import open_regular
from ctxvision.data.images.orientation import load_oriented
from ctxvision.data.images.reading import DECODER_ERRORS, open_picture, reason

from .spec import IGNORE

_FORMATS = ("BMP", "GIF", "PNG", "TIFF")
_LOSSY = ("JPEG", "WEBP")  # by their contents, whatever the suffix says
_ALL_FORMATS = (*_FORMATS, *_LOSSY)
_ROWS = 256  # that are looked at together
_NOISE = 16  # strange values that no labelling makes


def read_mask(source: str | Image.Image, table: NDArray[np.int16], name: str) -> Image.Image:
    """Decode a mask and translate its values into classes.

    The indices of a palette image are its values, whatever the colours. Three equal channels are one. An EXIF
    orientation is applied, as it is to images.

    Args:
        source: The path of a PNG, BMP, GIF or TIFF file, or an image of PIL's.
        table: The class of each value, (256,), below 0 for values that no mask may have.
        name: The name of the mask in errors.

    Returns:
        An image of 8 bits: classes, and 255 where there is none.

    Raises:
        BadImageError: The file is missing, truncated, in colour or transparent, or has values that are no classes.
    """
    values = mask_values(source, name)
    problem = value_problem(values, table)
    if problem:
        raise BadImageError(name, problem)
    return Image.fromarray(table.astype(np.uint8)[values])


def mask_values(source: str | Image.Image, name: str) -> NDArray[Any]:
    """Decode a mask to its whole numbers, (H, W), uint8 where they are of 8 bits and int64 else.

    Raises:
        BadImageError: The file is missing, truncated, in colour or transparent.
    """
    try:
        with contextlib.ExitStack() as stack:
            mask = source
            if isinstance(mask, str):
                mask = stack.enter_context(open_picture(stack.enter_context(open_regular(mask)), _ALL_FORMATS))
            if mask.format in _LOSSY:
                raise ValueError(f"is a {mask.format}, which changes the values of pixels; save masks as PNG")
            loaded = load_oriented(mask)
            values = np.asarray(loaded)
    except DECODER_ERRORS as error:
        raise BadImageError(name, reason(error)) from error
    return _numbers(loaded.mode, values, name)


def _numbers(mode: str, values: NDArray[Any], name: str) -> NDArray[Any]:
    if mode in ("LA", "PA", "RGBA", "RGB"):
        if mode.endswith("A") and (values[..., -1] != 255).any():
            raise BadImageError(
                name, "is transparent in places; a mask has one number for every pixel, save it without alpha"
            )
        colors = values[..., :3] if mode.startswith("RGB") else values[..., :1]
        colored = np.argwhere((colors != colors[..., :1]).any(-1))
        if len(colored):
            color = tuple(map(int, colors[tuple(colored[0])]))
            raise BadImageError(
                name,
                f"a mask has one number for every pixel; this one is in colour ({mode}), as {color}: save "
                "the number of the class in its place",
            )
        values = colors[..., 0]
    elif mode == "F":
        if (
            not np.isfinite(values).all()
            or (values != np.round(values)).any()
            or np.abs(values).max(initial=0) > 1e6
        ):
            raise BadImageError(name, "its values are not whole numbers")
    elif mode not in ("L", "P", "1", "I") and not mode.startswith("I;16"):
        raise BadImageError(name, f"a mask has one number for every pixel; this one is in colour ({mode})")
    return values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int64, copy=False)


def value_problem(values: NDArray[Any], table: NDArray[np.int16]) -> str:
    """Say which values of a mask (H, W) are no classes, by a table (256,); empty where all are classes."""
    present = values_in(values)
    strange = [value for value in present if not 0 <= value <= 255 or table[value] < 0]
    if not strange:
        return ""
    problem = f"value {strange[0]} is none of the {int(table[table != IGNORE].max()) + 1} classes, nor 255"
    if len(strange) > _NOISE:
        return f"{problem}; it has {len(present)} values, as a JPEG or a resize that interpolates leaves them"
    listed = f"{', '.join(map(str, present[:8]))}{', …' if len(present) > 8 else ''}"
    return f"{problem}; its values are {listed}" if len(present) > 1 else problem


def values_in(values: NDArray[Any]) -> list[int]:
    """List the values that occur in a mask (H, W)."""
    if values.dtype != np.uint8 and values.size and (values.min() < 0 or values.max() > IGNORE):
        return list(map(int, np.unique(values)))
    # counting makes 64-bit numbers of what it counts, so some rows at a time
    counts = np.zeros(256, np.int64)
    for top in range(0, len(values), _ROWS):
        counts += np.bincount(values[top : top + _ROWS].ravel(), minlength=256)
    return list(map(int, np.flatnonzero(counts)))
