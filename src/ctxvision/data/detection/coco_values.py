"""Single values of COCO's annotation files: ids, boxes and masks, in the spellings that other tools give them."""

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import ImageId, Segmentation

# the mask functions reserve memory in proportion to a polygon's circumference
_FAR = 1.0  # image sizes that a polygon may reach beyond the image


def mask_problem(segmentation: Any, height: int, width: int) -> str:
    """Say what is wrong with a segmentation of an image; empty where nothing is.

    The mask functions of COCO's tools read and write beyond their memory where a run-length code does not fit its
    size, so codes are checked before they see them.
    """
    if isinstance(segmentation, dict):
        return _code_problem(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        return "without a mask"
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "with a polygon that is not x, y of three or more points"
        if not all(isinstance(value, int | float) for value in polygon):
            return "with a polygon that is not made of numbers"
        try:
            points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        except OverflowError:  # a whole number beyond all floats
            return "with a polygon far outside the image"
        if not np.isfinite(points).all():
            return "with a polygon that has NaN or infinite coordinates"
        size = np.array([width, height])
        if (points < -_FAR * size).any() or (points > (1 + _FAR) * size).any():
            return "with a polygon far outside the image"
    return ""


def _code_problem(code: dict[str, Any], height: int, width: int) -> str:
    if code.get("size") != [height, width]:
        return "with a mask of another size than the image"
    counts = code.get("counts")
    try:
        runs = uncompress(counts) if isinstance(counts, str) else np.array(counts)
    except ValueError:
        return "with a damaged run-length code"
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        return "with a damaged run-length code"
    # each by itself too: the sum of large runs wraps around
    if (runs > height * width).any() or runs.sum() != height * width:
        return "with a damaged run-length code"
    return "" if runs[1::2].any() else "with an empty mask"


def uncompress(counts: str) -> NDArray[np.int64]:
    """Return the run lengths of COCO's compressed code.

    A character holds five bits, lowest first, of a number and whether more follow; from the third on, numbers are
    differences to the run before the last.

    Raises:
        ValueError: The text is not such a code.
    """
    try:
        values = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise ValueError("not ASCII") from error
    if not len(values) or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        raise ValueError("not a run-length code")
    last = np.flatnonzero((values & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:
        raise ValueError("a run of more than 2^35 pixels")
    place = 5 * (np.arange(len(values)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((values & 31) << place, first)
    numbers -= ((values[last] & 16) != 0) * (np.int64(1) << (place[last] + 5))  # the sign
    runs = numbers.copy()
    # run 2 is a difference to none, run 3 to run 1, run 4 to run 2
    for parity in (1, 2):
        runs[parity::2] = np.cumsum(numbers[parity::2])
    return runs


def to_code(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Return COCO's compressed code of a segmentation without problems; ``counts`` is a string."""
    from faster_coco_eval import mask

    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation
    code = mask.frPyObjects(segmentation, height, width)
    return _as_text(mask.merge(code) if isinstance(code, list) else code)


def to_mask(segmentation: Segmentation, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask (H, W), 0 or 1, of a segmentation without problems."""
    from faster_coco_eval import mask

    decoded: NDArray[np.uint8] = mask.decode(to_code(segmentation, height, width))
    return decoded


def encode_masks(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the compressed codes of masks (N, H, W)."""
    from faster_coco_eval import mask

    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [_as_text(code) for code in mask.encode(stacked)]


def _as_text(code: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


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
