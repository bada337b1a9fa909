"""Polygons and run-length codes to masks and back, by pycocotools, which must not see a damaged code."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import Segmentation

# pycocotools reserves memory in proportion to a polygon's circumference
_FAR = 1.0  # image sizes that a polygon may reach beyond the image


def mask_problem(segmentation: Any, height: int, width: int) -> str:
    """Say what is wrong with a segmentation of an image; empty where nothing is.

    pycocotools reads and writes beyond its memory where a run-length code does not fit its size, so codes are
    checked before it sees them.
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
    """Return the run lengths of pycocotools' compressed code.

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
    """Return pycocotools' compressed code of a segmentation without problems; ``counts`` is a string."""
    from pycocotools import mask

    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation
    code = mask.frPyObjects(segmentation, height, width)
    return _as_text(mask.merge(code) if isinstance(code, list) else code)


def to_mask(segmentation: Segmentation, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask (H, W), 0 or 1, of a segmentation without problems."""
    from pycocotools import mask

    decoded: NDArray[np.uint8] = mask.decode(to_code(segmentation, height, width))
    return decoded


def encode_masks(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the compressed codes of masks (N, H, W)."""
    from pycocotools import mask

    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [_as_text(code) for code in mask.encode(stacked)]


def _as_text(code: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
