"""From the bytes that a client sent to the input of a network."""

import io
import re
from collections.abc import Callable
from typing import cast

from PIL import Image, ImageFile
from torch import Tensor

from ctxvision.data import BadImageError, DataSpec, read_image
from ctxvision.data.images.reading import DECODER_ERRORS, open_picture

from .error import Refusal

# what browsers show; every further decoder is one more that strangers can reach
FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP") if name in Image.OPEN)
KINDS = "JPEG, PNG, WebP, AVIF, GIF or BMP" if "AVIF" in FORMATS else "JPEG, PNG, WebP, GIF or BMP"
_MOST_SCANS = 100  # of a JPEG; encoders write about ten, and each costs as much as decoding the image once
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)  # all but stuffed bytes and restarts
_SCAN, _LAST = 0xDA, 0xD9


class _Watched(io.BytesIO):
    """Bytes that ask before each piece whether they are still wanted; Pillow reads pieces of 64 kB."""

    def __init__(self, data: bytes, watch: Callable[[], None]) -> None:
        super().__init__(data)
        self._watch = watch

    def read(self, size: int | None = -1, /) -> bytes:
        self._watch()
        return super().read(size)


def decode(data: bytes, spec: DataSpec, max_pixels: int, watch: Callable[[], None] = lambda: None) -> Tensor:
    """Decode an image as `ctxvision.data.read_image` does, and transform it as in evaluation.

    What the bytes are is what the decoder finds; names and types that the client gave do not count.

    Args:
        data: Bytes of a file in one of `FORMATS`.
        spec: Description of the images that the network takes.
        max_pixels: Largest width times height, by the file's header, before any pixel is decoded.
        watch: Function that is called now and then; it raises a `Refusal` to end the work.

    Returns:
        The normalised image, (C, H, W).

    Raises:
        Refusal: The status is 415 for a file that is not such an image, 413 for too many pixels, and 422 for a
            damaged image or one of an unusable kind; or it is what `watch` raises.
    """
    try:
        opened = open_picture(_Watched(data, watch), FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(max_pixels) from error
    except DECODER_ERRORS as error:
        raise Refusal(415, "not_an_image", f"not an image; send {KINDS}") from error
    with opened:
        if opened.width * opened.height > max_pixels:
            raise _too_large(max_pixels)
        _require_cheap(cast(ImageFile.ImageFile, opened), data)
        try:
            return spec.eval_transform()(read_image(opened, spec.color_mode, "the image"))
        except BadImageError as error:
            # the decoder's own words may repeat what is in the file
            raise Refusal(
                422, "bad_image", "the image is damaged, cut off, far too narrow, or has no pixels of 8 or 16 bits"
            ) from error


def _require_cheap(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse what decodes to no more pixels than others, but with far more time or memory.

    Raises:
        Refusal: The status is 415 for a run-length coded BMP, and 422 for a JPEG of too many scans.
    """
    # Pillow decodes them in Python, and their jumps may write hundreds of times the image's size
    if any(tile[0] == "bmp_rle" for tile in image.tile):
        raise Refusal(415, "run_length_bmp", "a run-length coded BMP; save it without compression, or as PNG")
    if image.format in ("JPEG", "MPO") and _scans(data) > _MOST_SCANS:
        raise Refusal(422, "too_many_scans", f"the JPEG has more than {_MOST_SCANS} scans; save it anew")


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG until its end, or one more than are allowed."""
    place = count = 0
    while count <= _MOST_SCANS and (found := _MARKER.search(data, place)):
        kind, place = found[1][0], found.end()
        if kind == _LAST:
            break
        if kind not in (0x01, 0xD8):  # these have no length
            place += int.from_bytes(data[place : place + 2], "big")
        count += kind == _SCAN
    return count


def _too_large(max_pixels: int) -> Refusal:
    return Refusal(413, "too_many_pixels", f"the image has more than {max_pixels} pixels; scale it down")
