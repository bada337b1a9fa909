"""An evaluation as one HTML page that needs nothing else: no script, no font, no other file."""

from typing import Any

import numpy as np
from markupsafe import Markup

from ctxvision.evaluation.by_class import confusion_picture
from ctxvision.evaluation.classification import Evaluation

from .report_page import _weakest
from .template import page_template, percent

_MATRIX = 25  # more classes make a picture and a list of mistakes instead of a table
_ROWS = 30  # of such lists
_SIDE = 300  # of the reliability diagram; below are the numbers of images
_COUNTS = 60
_GAP = 22


def render(evaluation: Evaluation) -> str:
    """Return the page."""
    numbers = evaluation.numbers
    classes = numbers["classes"]
    few = len(classes) <= _MATRIX
    return page_template("evaluation.html.j2").render(
        r=numbers,
        pictures=evaluation.pictures.by_place(),
        pixelated=evaluation.pixelated,
        names=[row["name"] for row in classes],
        matrix=numbers["confusion"] if few else None,
        matrix_picture=None if few else confusion_picture(np.array(numbers["confusion"])),
        coarse=len(classes) > 200,
        pairs=numbers["confused"][:_ROWS],
        weakest=_weakest(classes),
        others=[row for row in classes if row["images"]] if len(classes) > _ROWS else [],
        empty=[row["name"] for row in classes if not row["images"]],
        diagram=reliability_diagram(numbers["calibration"]),
        speed=_speed,
        what={"val": "held-out images", "train": "training images", "all": "images"}[numbers["split"]],
        wbr=Markup("<wbr>"),
    )


def reliability_diagram(calibration: dict[str, Any]) -> Markup:
    """Draw accuracy over confidence, and below it how many images there are, as an SVG element.

    The colours and the font are those of the page.
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
    # nothing but numbers and our own words is in it
    return Markup(
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


def _speed(speed: dict[str, Any] | None) -> str:
    if speed is None:
        return "–"
    rate = speed["images_per_second"]
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
