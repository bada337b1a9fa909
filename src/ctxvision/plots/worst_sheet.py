"""A contact sheet of the images with the highest losses."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ctxvision.foreign import visible

from .fonts import font_for

_COLUMNS = 4
_SIDE, _GAP, _LINE = 220, 20, 32  # pixels, for a sheet that may be shown at 40 % of its size
_INK, _BLUE, _ORANGE = "#1b1f24", "#0072B2", "#D55E00"
_SIZE = 24


def draw_worst(worst: Sequence[Mapping[str, Any]], pictures: Mapping[int, str]) -> bytes:
    """Draw images with their true class, the network's answer and their loss as a PNG.

    Args:
        worst: of `Evaluation.numbers`, the highest loss first.
        pictures: of `Evaluation`.
    """
    cell = _SIDE + 3 * _LINE + _GAP
    rows = -(-len(worst) // _COLUMNS)
    width = _COLUMNS * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, 2 * _GAP + _LINE + rows * cell), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (_GAP, _GAP // 2), "Highest losses: true class; ✓ right or ✗ wrong, answer", _INK, font_for("✓✗", _SIZE)
    )
    for number, entry in enumerate(worst):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), _GAP + _LINE + row * cell
        picture = _fitted(_decoded(pictures[entry["position"]]))
        sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + (_SIDE - picture.height) // 2))
        mark, colour = ("✓", _BLUE) if entry["right"] else ("✗", _ORANGE)
        lines = [(entry["truth"], _INK), (f"{mark} {entry['prediction']}", colour)]
        lines.append((f"loss {entry['loss']:.2f}", _INK))
        for place, (text, ink) in enumerate(lines):
            font = font_for(text, _SIZE)
            draw.text((left, top + _SIDE + place * _LINE), _shortened(text, font), ink, font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def _fitted(picture: Image.Image) -> Image.Image:
    """Enlarge a picture to its place; pixels of small ones stay visible."""
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = max(picture.size) <= 64
    return picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _shortened(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Leave out the end of a text that is too wide for its place; a text has one line."""
    text = " ".join(visible(text).split()) or "–"
    if font.getlength(text) <= _SIDE:
        return text
    while text and font.getlength(f"{text}…") > _SIDE:
        text = text[:-1]
    return f"{text}…"
