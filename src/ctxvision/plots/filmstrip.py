"""The frames of a clip beside each other, as a part of a page."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 96  # pixels of a frame
_SMALL = 64  # pixels of a frame that is shown without any loss


def filmstrip(pixels: NDArray[np.uint8]) -> str:
    """Put frames, RGB from 0 to 255, (T, H, W, 3) uint8, beside each other, and return their data URI."""
    count, height, width = pixels.shape[:3]
    gap = max(height // 16, 1)
    row = np.full((height, count * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(pixels):
        row[:, index * (width + gap) : index * (width + gap) + width] = frame
    picture = Image.fromarray(row)
    if height > _SIDE:
        picture = picture.resize((round(picture.width * _SIDE / height), _SIDE))
    file = io.BytesIO()
    picture.save(file, "webp", lossless=height <= _SMALL, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
