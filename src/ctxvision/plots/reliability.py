"""A diagram of the accuracy of a classifier over its confidence, as a part of a page."""

from typing import Any

from ctxvision.wording import percent

_SIDE = 300  # of the diagram; below are the numbers of images
_COUNTS = 60
_GAP = 22


def reliability_diagram(calibration: dict[str, Any]) -> str:
    """Draw accuracy over confidence, and below it the number of images, as an SVG element.

    The element holds only numbers and fixed words, no text of others; its colours and its font are those of the
    page.

    Args:
        calibration: The values that `ctxvision.evaluation.answers.calibration` returned.
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
