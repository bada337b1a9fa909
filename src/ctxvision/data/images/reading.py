"""Image files: which files are images, and how one becomes upright 8-bit pixels."""

import contextlib
import importlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image

from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.files import Listing, in_words, list_below, open_regular, suffix_in

_ORIENTATION = 0x0112
SIDEWAYS = 5  # from this orientation on, width and height change places
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = _TURN | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8."""
    # a broken EXIF block does not make the pixels bad; what is in it may make anything fail
    with suppress(Exception):
        value = image.getexif().get(_ORIENTATION, 1)
        if value in _TURN:
            return int(value)
    return 1


def load_oriented(image: Image.Image, size: tuple[int, int] | None = None, turned: bool = True) -> Image.Image:
    """Decode an opened image and turn it by its EXIF orientation, unless it was annotated as it is stored.

    Args:
        image: The image as PIL has opened it.
        size: The width and height that the annotations are for; where only the stored or only the turned picture
            has it, that one is returned.
        turned: Whether the turned picture is returned where the size does not tell.
    """
    # PIL turns a TIFF while it decodes it, and finds the EXIF block of some PNGs only then
    orientation = orientation_of(image) if image.format == "TIFF" else 0
    image.load()
    if not orientation:
        orientation = orientation_of(image)
        stored, upright = image.size, image.size[::-1] if orientation >= SIDEWAYS else image.size
        if orientation == 1 or (size == stored and not (turned and size == upright)):
            return image
        return image.transpose(_TURN[orientation])
    stored = image.size[::-1] if orientation >= SIDEWAYS else image.size
    if orientation == 1 or size != stored or (turned and size == image.size):
        return image
    return image.transpose(_BACK[orientation])


# the decoders by their modules in Pillow; others can start programs (EPS), decode in Python, pixel by pixel (QOI),
# or mean something else
_PLUGINS = ("Avif", "Bmp", "Gif", "Jpeg2K", "Jpeg", "Mpo", "Pcx", "Png", "Ppm", "Tga", "Tiff", "WebP")
# packages that teach Pillow a format: module, package, what turns it on
_MORE = (("pillow_heif", "register_heif_opener"), ("pillow_jxl", ""))
for _name in _PLUGINS:
    with contextlib.suppress(ModuleNotFoundError):  # AVIF came with Pillow 11.3
        importlib.import_module(f"PIL.{_name}ImagePlugin")
for _name, _register in _MORE:
    with contextlib.suppress(ModuleNotFoundError):
        _module = importlib.import_module(_name)
        if _register:
            getattr(_module, _register)()

FORMATS = tuple(
    name
    for name in (
        "JPEG",
        "PNG",
        "WEBP",
        "TIFF",
        "BMP",
        "GIF",
        "PPM",
        "AVIF",
        "HEIF",
        "JXL",
        "JPEG2000",
        "DIB",
        "PCX",
    )
    if name in Image.OPEN
)
_NAMED = ("TGA",)  # has no mark of its own: many a damaged file looks like one
IMAGE_SUFFIXES = frozenset(
    suffix for suffix, kind in Image.EXTENSION.items() if kind in (*FORMATS, *_NAMED, "MPO")
) | {".pnm"}
_UNSUPPORTED = {
    "HEIF": ((".heic", ".heics", ".heif", ".heifs", ".hif"), "HEIC", "needs the package pillow-heif"),
    "AVIF": ((".avif", ".avifs"), "AVIF", "needs pillow 11.3 or later"),
    "JXL": ((".jxl",), "JPEG XL", "needs the package pillow-jxl-plugin"),
}
HINTS = {
    suffix: hint
    for kind, (suffixes, _, hint) in _UNSUPPORTED.items()
    if kind not in FORMATS
    for suffix in suffixes
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
# What Pillow's decoders raise for damaged bytes, found by mutating files of every format. A bug of ours or of
# another release of Pillow is an AttributeError, a TypeError or an ImportError, and none of these.
DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, LookupError, OverflowError, EOFError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_MAX_ASPECT = 200  # beyond, resizing the short side makes gigabytes of pixels
_STRIP = 1 << 22  # pixels that are converted at a time
_LIMIT = "CTXVISION_MAX_PIXELS"


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """List the image files below a folder, by their suffix.

    Hidden files and folders are left out; links are followed, loops of links are not.

    Returns:
        The paths of the images, which begin with ``folder``, sorted.
    """
    return list_image_files(folder).files


def list_image_files(folder: str | os.PathLike[str]) -> Listing:
    """List the image files below a folder as `list_images` does, and count what else is there."""
    return list_below(folder, is_image)


is_image = suffix_in(IMAGE_SUFFIXES)


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
        source: The path or the open file of an image in one of `FORMATS`, whatever its suffix says; or an image of
            PIL's.
        color_mode: The mode to convert the image to, ``"RGB"`` or ``"L"``.
        name: The name of the image in errors; by default its path.
        size: The width and height that annotations are for: where only the picture as it is stored has them, it is
            not turned by its EXIF orientation.
        turned: Whether the image is turned where the stored and the turned picture both have that size.

    Returns:
        An image in that mode.

    Raises:
        BadImageError: The file is missing, empty, truncated or no image, has more pixels than PIL's limit or
            ``CTXVISION_MAX_PIXELS``, or is too narrow.
    """
    name = name or str(source)
    _set_limit()
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(_opened(source, name))
            image = opened
            if max(image.size) > _MAX_ASPECT * min(image.size):
                raise ValueError(f"sides {image.width} × {image.height} are more unequal than {_MAX_ASPECT} : 1")
            image = load_oriented(image, size, turned)
        except DECODER_ERRORS as error:
            raise BadImageError(name, _why(source, error)) from error
        image = _as_8_bit(image, color_mode, name)
        return image.copy() if image is source else image


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO | Image.Image, name: str) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
        return
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            source = stack.enter_context(open_regular(source))
        with open_picture(source, (*FORMATS, *_NAMED) if name.lower().endswith(_TGA) else FORMATS) as image:
            yield image


_TGA = tuple(suffix for suffix, kind in Image.EXTENSION.items() if kind in _NAMED)


def open_picture(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    """Read the header of an image.

    Args:
        file: The open file of the image.
        formats: The formats that it may have, by PIL's names.

    Raises:
        Exception: The file cannot be opened as an image: one of `DECODER_ERRORS`.
    """
    with warnings.catch_warnings():
        # between PIL's warning and its limit an image is large, but no bomb
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=formats)


def _set_limit() -> None:
    """Let the environment say how many pixels are a bomb; PIL warns at half of that."""
    given = os.environ.get(_LIMIT)
    if given is None:
        return
    if not given.isascii() or not given.isdigit() or not int(given[:20]) > 0:
        raise DataError(f"{_LIMIT} must be a whole number of pixels, at least 1, got {given!r}")
    Image.MAX_IMAGE_PIXELS = -(-int(given[:20]) // 2)


def _as_8_bit(image: Image.Image, mode: str, name: str) -> Image.Image:
    """Convert an image, strip by strip: beside the two images nothing of their size is made."""
    clear = image.has_transparency_data
    if image.mode == mode and not clear:
        return image
    if image.mode == "F":
        raise BadImageError(name, "floating-point pixels have no known range; save it with 8 or 16 bits")
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return _strip_as_8_bit(image, mode, clear, name)
    made = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        made.paste(_strip_as_8_bit(image.crop(box), mode, clear, name), box)
    return made


def _strip_as_8_bit(image: Image.Image, mode: str, clear: bool, name: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int32, copy=False)
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError(name, "32-bit pixels have no known range; save it with 8 or 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif clear:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    try:
        return image.convert(mode)
    except ValueError as error:  # PIL has no such conversion
        raise BadImageError(name, f"pixels of the kind {image.mode} cannot be made {mode}") from error


def _why(source: object, error: Exception) -> str:
    """Say in one line why a file cannot be decoded."""
    size, head = 1, b""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(source, str | os.PathLike):
            with open_regular(source) as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(16)
        elif isinstance(source, io.BytesIO):
            size, head = source.getbuffer().nbytes, bytes(source.getbuffer()[:16])
    if not size:
        return "empty, not an image"
    kind = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        kind = "JXL"
    if isinstance(error, Image.UnidentifiedImageError) and kind:
        _, called, hint = _UNSUPPORTED[kind]
        return f"{called} that is damaged or cut off" if kind in FORMATS else f"is {called}, which {hint}"
    return reason(error)


def reason(error: Exception) -> str:
    """Say in one line why an image cannot be used."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).rstrip('.')}; scale it down, or set {_LIMIT} to read it"
    return in_words(error)
