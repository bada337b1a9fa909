"""Image files: which files are images, and how one becomes 8-bit pixels."""

import io
import os
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as _tiff  # noqa: F401 - opening by format needs it registered
from PIL import WebPImagePlugin as _webp  # noqa: F401

from .error import BadImageError
from .orientation import load_oriented

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# other formats of PIL can start programs (EPS) or mean something else
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MAX_ASPECT = 200  # beyond, resizing the short side makes gigabytes of pixels


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """List the image files below a folder, by their suffix.

    Hidden files and folders are left out; links are followed, loops of links are not.

    Returns:
        Paths that begin with ``folder``, sorted.
    """
    return sorted(_walk(os.fspath(folder), frozenset()))


def _walk(folder: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, above | {real})
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                yield entry.path


def read_image(
    source: str | os.PathLike[str] | BinaryIO | Image.Image,
    color_mode: str = "RGB",
    name: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    turned: bool = True,
) -> Image.Image:
    """Decode an image completely.

    The EXIF orientation is applied; transparent pixels are shown on white; 16-bit values are scaled to 8
    bits; of an animation the first frame is taken.

    Args:
        source: path or open file of a BMP, GIF, JPEG, PNG, PNM, TIFF or WebP image, whatever its suffix says;
            or an image of PIL's.
        color_mode: ``"RGB"`` or ``"L"``.
        name: what to call it in errors; by default its path.
        size: (width, height) that annotations are for: where only the picture as it is stored has it, it is not
            turned by its EXIF orientation.
        turned: whether it is turned where both have that size.

    Returns:
        An image in that mode.

    Raises:
        BadImageError: missing, empty, truncated, not an image, too large to be one (PIL's limit), or too
            narrow.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    try:
        with warnings.catch_warnings():
            # between PIL's warning and its limit an image is large, but no bomb
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS)
        with opened as image:
            if max(image.size) > _MAX_ASPECT * min(image.size):
                raise ValueError(f"sides {image.width} × {image.height} are more unequal than {_MAX_ASPECT} : 1")
            return _to_8_bit(load_oriented(image, size, turned)).convert(color_mode)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        why = "empty, not an image" if _is_empty(source) else reason(error)
        raise BadImageError(name or str(source), why) from error


def _is_empty(source: object) -> bool:
    if isinstance(source, str):
        return os.path.isfile(source) and not os.path.getsize(source)
    return isinstance(source, io.BytesIO) and not source.getbuffer().nbytes


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int32, copy=False)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known range; save it with 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def reason(error: Exception) -> str:
    """Say in one line why an image cannot be used."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).rstrip('.')}; scale it down"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
