"""Pixels as pictures, and pictures as parts of a page."""

import base64
import io

from PIL import Image
from torch import Tensor

_SIDE = 480  # of a picture in a page, in pixels


def to_picture(pixels: Tensor) -> Image.Image:
    """Turn an image (1 or 3, H, W) uint8 into a picture, grey or RGB."""
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def data_uri(picture: Image.Image, *, lossless: bool, side: int = _SIDE) -> str:
    """Return a picture as a part of a page, at most ``side`` pixels wide and high: PNG if lossless, else JPEG."""
    picture = picture.copy()
    picture.thumbnail((side, side))
    kind = "png" if lossless else "jpeg"
    file = io.BytesIO()
    picture.save(file, kind, **({"optimize": True} if lossless else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
