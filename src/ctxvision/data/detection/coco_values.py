"""Single values of COCO's annotation files: what they mean, in the spellings that other tools give them."""

import json
import math
from typing import Any

from .coco import ImageId, Segmentation
from .coco_masks import mask_problem

_MOST_SIDE = 1_000_000  # pixels; no image has such a side
_BEYOND = 1.0  # pixels by which rounded boxes reach beyond an image
LEAST_SIDE = 0.01  # pixels of a box within its image; less vanishes in float32 when it is mirrored or resized

Box = tuple[float, float, float, float]


def as_id(value: Any) -> ImageId | None:
    """Return an id; a whole number may come as 1.0, which pandas writes. ``None`` for what is none."""
    if isinstance(value, str):
        return value or None
    return as_whole(value)


def as_whole(value: Any) -> int | None:
    """Return a whole number, or ``None``: of 1.5, true or "x"."""
    return int(value) if is_number(value) and value == int(value) else None


def as_category(value: Any) -> int | None:
    """Return the id of a category, which results are written with and so is a number; "3" is 3."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return as_whole(value)


def other_spelling(value: ImageId) -> ImageId | None:
    """Return 10 for "10", and "10" for 10: what the image is called where its annotations quote its id."""
    return str(value) if isinstance(value, int) else as_category(value)


def as_crowd(value: Any) -> bool | None:
    """Return whether ``iscrowd`` says that an object is a crowd; ``None`` if it says neither."""
    if isinstance(value, str):
        value = {"": 0, "0": 0, "false": 0, "no": 0, "1": 1, "true": 1, "yes": 1}.get(value.strip().lower())
        return None if value is None else bool(value)
    return bool(value) if value is None or value in (0, 1) else None


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    try:
        return _is_numeric(value) and math.isfinite(value)
    except OverflowError:  # a whole number beyond 1e308
        return False


def is_side(value: Any) -> bool:
    """Tell whether a value can be the height of an image."""
    return is_number(value) and 1 <= value <= _MOST_SIDE and value == int(value)


def box_of(bbox: Any, height: int, width: int) -> tuple[str, Box]:
    """Return what is wrong with ``x, y, width, height``, and the box as ``x0, y0, x1, y1``."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_numeric(v) for v in bbox):
        return "without a box of four numbers", (0, 0, 0, 0)
    if not all(map(is_number, bbox)):
        return "with NaN or infinite coordinates", (0, 0, 0, 0)
    x, y, w, h = map(float, bbox)
    if w <= 0 or h <= 0:
        return "with a box of zero or negative size", (0, 0, 0, 0)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "with a box outside the image", (0, 0, 0, 0)
    box = (x, y, x + w, y + h)
    sides = (min(box[2], width) - max(x, 0), min(box[3], height) - max(y, 0))
    if min(sides) < LEAST_SIDE:
        return f"with a box of less than {LEAST_SIDE} pixels within the image", box
    beyond = min(x, y) < -_BEYOND or box[2] > width + _BEYOND or box[3] > height + _BEYOND
    # half a box beyond the image means that the sizes or the coordinates are wrong
    mostly = beyond and sides[0] * sides[1] < 0.5 * w * h
    return "with a box mostly outside the image" if mostly else "", box


def mask_of(segmentation: Any, height: int, width: int) -> tuple[str, Segmentation, int]:
    """Return what is wrong with a segmentation, what of it can be used, and how many polygons cannot.

    Polygons of fewer than three points, which a slip of the mouse leaves behind, cost their object nothing as long
    as another one is good.
    """
    if isinstance(segmentation, list):
        if segmentation and all(_is_numeric(value) for value in segmentation):
            segmentation = [segmentation]  # one polygon without the list around it
        good = [polygon for polygon in segmentation if not (isinstance(polygon, list) and len(polygon) < 6)]
        if good:
            return mask_problem(good, height, width), good, len(segmentation) - len(good)
    if isinstance(segmentation, dict) and isinstance(segmentation.get("size"), list):
        sides = [as_whole(side) for side in segmentation["size"]]
        segmentation = {**segmentation, "size": segmentation["size"] if None in sides else sides}
    return mask_problem(segmentation or None, height, width), segmentation or None, 0


def short(value: Any) -> str:
    """Quote a value in a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
