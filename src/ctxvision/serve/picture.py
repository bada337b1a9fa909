"""From the bytes that a client sent to the input of a network."""

import io
import warnings

from PIL import Image
from torch import Tensor

from ctxvision.data import BadImageError, DataSpec, read_image

from .error import Refusal

# what browsers show; every further decoder is one more that strangers can reach
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
KINDS = "JPEG, PNG, WebP, GIF or BMP"


def decode(data: bytes, spec: DataSpec, max_pixels: int) -> Tensor:
    """Decode an image as `ctxvision.data.read_image` does, and transform it as in evaluation.

    What the bytes are is what the decoder finds; names and types that the client gave do not count.

    Args:
        data: of a file in one of `FORMATS`.
        spec: of the network.
        max_pixels: width times height, by the file's header, before any pixel is decoded.

    Returns:
        Normalised, (C, H, W).

    Raises:
        Refusal: 415 not such an image, 413 too many pixels, 422 damaged or of an unusable kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(max_pixels) from error
    except Exception as error:  # damaged bytes may raise anything
        raise Refusal(415, "not_an_image", f"not an image; send {KINDS}") from error
    with opened:
        if opened.width * opened.height > max_pixels:
            raise _too_large(max_pixels)
        try:
            return spec.eval_transform()(read_image(opened, spec.color_mode, "the image"))
        except BadImageError as error:
            # the decoder's own words may repeat what is in the file
            raise Refusal(
                422, "bad_image", "the image is damaged, cut off, far too narrow, or has no pixels of 8 or 16 bits"
            ) from error


def _too_large(max_pixels: int) -> Refusal:
    return Refusal(413, "too_many_pixels", f"the image has more than {max_pixels} pixels; scale it down")
