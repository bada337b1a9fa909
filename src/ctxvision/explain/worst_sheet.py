"""A contact sheet of the images with the highest losses."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from .curves import DOTS, FONT, WIDTH, as_png

_COLUMNS = 4
_NAME = 11  # letters that fit under an image
_RIGHT, _WRONG = "#0072B2", "#D55E00"


def draw_worst(worst: Sequence[Mapping[str, Any]], pictures: Mapping[int, str]) -> bytes:
    """Draw images with their true class, the network's answer and their loss as a PNG.

    Args:
        worst: of `Evaluation.numbers`, the highest loss first.
        pictures: of `Evaluation`.
    """
    rows = max(-(-len(worst) // _COLUMNS), 1)
    with rc_context(FONT):
        figure = Figure(figsize=(WIDTH, 0.3 + 1.45 * rows), dpi=DOTS, layout="constrained")
        figure.suptitle("Highest losses: true class, then ✓ or ✗ and the answer", fontsize=8)
        for number in range(rows * _COLUMNS):
            axes = figure.add_subplot(rows, _COLUMNS, number + 1)
            axes.set_axis_off()
            if number >= len(worst):
                continue
            entry = worst[number]
            picture = np.asarray(_decoded(pictures[entry["position"]]).convert("RGB"))
            smooth = max(picture.shape) > 64
            axes.imshow(picture, interpolation="antialiased" if smooth else "nearest")
            mark, colour = ("✓", _RIGHT) if entry["right"] else ("✗", _WRONG)
            caption = f"{_short(entry['truth'])}\n{mark} {_short(entry['prediction'])}\nloss {entry['loss']:.2f}"
            axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", color=colour)
        return as_png(figure)


def _decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
