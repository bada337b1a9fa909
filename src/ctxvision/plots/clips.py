"""Frames of a clip: with the answers of a network below them, and beside each other as a part of a page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctxvision.foreign import visible

from .fonts import font_for

_SIDE = 192  # labelled frames are enlarged to this, in whole steps
_STRIP = 96  # pixels of a frame in a strip, at most
_LOSSLESS = 64  # pixels of a frame in a strip that is shown without any loss


def labelled_frames(
    pixels: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    by_frame: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    numbers: Sequence[int] | None = None,
    truth: str | None = None,
    top: int = 3,
) -> NDArray[np.uint8]:
    """Write the answer for each frame below it, and below that the answer for the clip.

    Args:
        pixels: The T frames, RGB from 0 to 255, (T, H, W, 3) uint8.
        probabilities: The probabilities of the N classes for the clip, (N,), from 0 to 1.
        by_frame: The probabilities of the N classes for each frame, (T, N), from 0 to 1.
        class_names: The names of the N classes.
        numbers: The numbers of the T frames in their video; by default they count from 0.
        truth: The name of the true class; ``None`` if it is not known.
        top: The number of most probable classes of the clip to write.

    Returns:
        The frames with text, (T, H', W', 3) uint8, for `ctxvision.data.video.writing.write_video`.
    """
    class_names = [visible(name) for name in class_names]
    height, width = pixels.shape[1:3]
    scale = max(_SIDE // max(height, width), 1)
    best = np.argsort(-probabilities, kind="stable")[:top]
    lines = [f"{class_names[c]} {_percent(probabilities[c])}" for c in best]
    footer = ([f"is: {visible(truth)}"] if truth is not None else []) + ["clip:", *lines]
    font = font_for("".join([*class_names, *footer]), 13)
    shown = []
    for frame, chances, number in zip(pixels, by_frame, numbers or range(len(pixels)), strict=True):
        page = Image.new("RGB", (max(width * scale, _SIDE), height * scale + 18 * (len(footer) + 1) + 8), "white")
        enlarged = Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        page.paste(enlarged, ((page.width - enlarged.width) // 2, 0))
        draw, guess = ImageDraw.Draw(page), int(chances.argmax())
        says = f"frame {number}: {class_names[guess]} {_percent(chances[guess])}"
        for row, text in enumerate([says, *footer]):
            draw.text((6, height * scale + 4 + 18 * row), text, fill="black", font=font)
        shown.append(np.asarray(page))
    return np.stack(shown)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def filmstrip(pixels: NDArray[np.uint8]) -> str:
    """Put frames, RGB from 0 to 255, (T, H, W, 3) uint8, beside each other, and return their data URI."""
    count, height, width = pixels.shape[:3]
    gap = max(height // 16, 1)
    row = np.full((height, count * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(pixels):
        row[:, index * (width + gap) : index * (width + gap) + width] = frame
    picture = Image.fromarray(row)
    if height > _STRIP:
        picture = picture.resize((round(picture.width * _STRIP / height), _STRIP))
    file = io.BytesIO()
    picture.save(file, "webp", lossless=height <= _LOSSLESS, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
