"""The mistakes and the calibration of a classifier: a confusion matrix of many classes, a reliability diagram."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.wording import percent

from .pixels import data_uri

_SIDE = 300  # of the reliability diagram; below are the numbers of images
_COUNTS = 60
_GAP = 22
_BLUE, _ORANGE = (56, 132, 214), (214, 110, 34)  # legible on white and on black


def confusion_picture(confusion: NDArray[np.int64], side: int = 500) -> str:
    """Draw a confusion matrix of many classes as a PNG with a transparent background, and return its data URI.

    Right answers are blue, mistakes are orange; the opacity grows with the square root of the share of the row, so
    that single mistakes are visible.

    Args:
        confusion: The numbers of images, (classes, classes) int64; rows are true classes.
        side: The largest width and height in pixels; if there are more classes, neighbouring classes share a
            pixel.
    """
    size = len(confusion)
    block = -(-size // side)
    edges = np.arange(0, size, block)
    cells = np.add.reduceat(np.add.reduceat(confusion, edges, 0), edges, 1)
    right = np.add.reduceat(confusion.diagonal(), edges)
    diagonal = np.eye(len(cells), dtype=bool)
    cells[diagonal] = right
    images = np.add.reduceat(confusion.sum(1), edges)
    share = np.sqrt(cells / np.maximum(images, 1)[:, None])
    pixels = np.zeros((*cells.shape, 4), np.uint8)
    pixels[..., :3] = np.where(diagonal[..., None], _BLUE, _ORANGE)
    pixels[..., 3] = np.where(cells > 0, np.round(255 * (0.3 + 0.7 * share)), 0)
    pixels[cells == 0] = 0
    return data_uri(Image.fromarray(pixels, "RGBA"), lossless=True, side=side)


def reliability_diagram(calibration: dict[str, Any]) -> str:
    """Draw accuracy over confidence, and below it the number of images, as an SVG element.

    The element holds only numbers and fixed words, no text of others; its colours and its font are those of the
    page.

    Args:
        calibration: The values that `ctxvision.evaluation.calibration` returned.
    """
    bins = calibration["bins"]
    width = _SIDE / len(bins)
    most = max(entry["images"] for entry in bins)
    parts = []
    for entry in bins:
        if not entry["images"]:
            continue
        x, height = entry["from"] * _SIDE, entry["top1"] * _SIDE
        top, count = _SIDE - height, max(entry["images"] / most * _COUNTS, 1)
        beside = f'x="{x + 1:.1f}" width="{width - 2:.1f}"'
        parts.append(
            f"<g><title>{_title(entry)}</title>"
            f'<rect class="right" {beside} y="{top:.1f}" height="{height:.1f}"/>'
            f'<circle class="sure" cx="{entry["confidence"] * _SIDE:.1f}" cy="{top:.1f}" r="4"/>'
            f'<rect class="count" {beside} y="{_SIDE + _GAP + _COUNTS - count:.1f}" height="{count:.1f}"/></g>'
        )
    bottom = _SIDE + _GAP + _COUNTS
    ticks = "".join(
        f'<text x="-8" y="{_SIDE * (1 - share) + 4:.0f}" text-anchor="end">{share * 100:.0f}</text>'
        f'<path class="grid-line" d="M0 {_SIDE * (1 - share):.0f}H{_SIDE}"/>'
        f'<text x="{_SIDE * share:.0f}" y="{bottom + 17}" text-anchor="middle">{share * 100:.0f}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    label = f"Reliability diagram; expected calibration error {percent(calibration['ece'])}"
    return (
        f'<svg class="reliability" role="img" aria-label="{label}" viewBox="-54 -10 {_SIDE + 68} {bottom + 52}">'
        f'{ticks}{"".join(parts)}<path class="ideal" d="M0 {_SIDE}L{_SIDE} 0"/>'
        f'<path class="axis" d="M0 {_SIDE}H{_SIDE}M0 {bottom}H{_SIDE}"/>'
        f'<text x="{_SIDE / 2:.0f}" y="{bottom + 37}" text-anchor="middle">confidence, %</text>'
        f'<text transform="rotate(-90)" x="{-_SIDE / 2:.0f}" y="-40" text-anchor="middle">right, %</text>'
        f'<text transform="rotate(-90)" x="{-(bottom - _COUNTS / 2):.0f}" y="-12" text-anchor="middle">'
        "images</text></svg>"
    )


def _title(entry: dict[str, Any]) -> str:
    images = f"{entry['images']:,} image" + ("s" if entry["images"] > 1 else "")
    return f"confidence {percent(entry['confidence'])}, right {percent(entry['top1'])}, {images}"
