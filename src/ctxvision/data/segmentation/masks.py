"""Mask files: decoded, checked, translated into classes, and surveyed before anything is trained on them."""

import contextlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import basename
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.files import open_regular
from ctxvision.data.images.reading import DECODER_ERRORS, FORMATS, load_oriented, open_picture, reason
from ctxvision.data.labelled import quoted

from .source import IGNORE, Pairs, PixelSet

_FORMATS = ("BMP", "GIF", "PNG", "TIFF")
_LOSSY = ("JPEG", "WEBP")  # by their contents, whatever the suffix says
_ALL_FORMATS = (*_FORMATS, *_LOSSY)
_ROWS = 256  # that are looked at together
_NOISE = 16  # strange values that no labelling makes


def read_mask(source: str | Image.Image, table: NDArray[np.int16], name: str) -> Image.Image:
    """Decode a mask and translate its values into classes.

    The indices of a palette image are its values, whatever the colours. Three equal channels are one. An EXIF
    orientation is applied, as it is to images.

    Args:
        source: The path of a PNG, BMP, GIF or TIFF file, or an image of PIL's.
        table: The class of each value, (256,), below 0 for values that no mask may have.
        name: The name of the mask in errors.

    Returns:
        An image of 8 bits: classes, and 255 where there is none.

    Raises:
        BadImageError: The file is missing, truncated, in colour or transparent, or has values that are no classes.
    """
    values = mask_values(source, name)
    problem = value_problem(values, table)
    if problem:
        raise BadImageError(name, problem)
    return Image.fromarray(table.astype(np.uint8)[values])


def mask_values(source: str | Image.Image, name: str) -> NDArray[Any]:
    """Decode a mask to its whole numbers, (H, W), uint8 where they are of 8 bits and int64 else.

    Raises:
        BadImageError: The file is missing, truncated, in colour or transparent.
    """
    try:
        with contextlib.ExitStack() as stack:
            mask = source
            if isinstance(mask, str):
                mask = stack.enter_context(open_picture(stack.enter_context(open_regular(mask)), _ALL_FORMATS))
            if mask.format in _LOSSY:
                raise ValueError(f"is a {mask.format}, which changes the values of pixels; save masks as PNG")
            loaded = load_oriented(mask)
            values = np.asarray(loaded)
    except DECODER_ERRORS as error:
        raise BadImageError(name, reason(error)) from error
    return _numbers(loaded.mode, values, name)


def _numbers(mode: str, values: NDArray[Any], name: str) -> NDArray[Any]:
    if mode in ("LA", "PA", "RGBA", "RGB"):
        if mode.endswith("A") and (values[..., -1] != 255).any():
            raise BadImageError(
                name, "is transparent in places; a mask has one number for every pixel, save it without alpha"
            )
        colors = values[..., :3] if mode.startswith("RGB") else values[..., :1]
        colored = np.argwhere((colors != colors[..., :1]).any(-1))
        if len(colored):
            color = tuple(map(int, colors[tuple(colored[0])]))
            raise BadImageError(
                name,
                f"a mask has one number for every pixel; this one is in colour ({mode}), as {color}: save "
                "the number of the class in its place",
            )
        values = colors[..., 0]
    elif mode == "F":
        if (
            not np.isfinite(values).all()
            or (values != np.round(values)).any()
            or np.abs(values).max(initial=0) > 1e6
        ):
            raise BadImageError(name, "its values are not whole numbers")
    elif mode not in ("L", "P", "1", "I") and not mode.startswith("I;16"):
        raise BadImageError(name, f"a mask has one number for every pixel; this one is in colour ({mode})")
    return values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int64, copy=False)


def value_problem(values: NDArray[Any], table: NDArray[np.int16]) -> str:
    """Say which values of a mask (H, W) are no classes, by a table (256,); empty where all are classes."""
    present = values_in(values)
    strange = [value for value in present if not 0 <= value <= 255 or table[value] < 0]
    if not strange:
        return ""
    problem = f"value {strange[0]} is none of the {int(table[table != IGNORE].max()) + 1} classes, nor 255"
    if len(strange) > _NOISE:
        return f"{problem}; it has {len(present)} values, as a JPEG or a resize that interpolates leaves them"
    listed = f"{', '.join(map(str, present[:8]))}{', …' if len(present) > 8 else ''}"
    return f"{problem}; its values are {listed}" if len(present) > 1 else problem


def values_in(values: NDArray[Any]) -> list[int]:
    """List the values that occur in a mask (H, W)."""
    if values.dtype != np.uint8 and values.size and (values.min() < 0 or values.max() > IGNORE):
        return list(map(int, np.unique(values)))
    # counting makes 64-bit numbers of what it counts, so some rows at a time
    counts = np.zeros(256, np.int64)
    for top in range(0, len(values), _ROWS):
        counts += np.bincount(values[top : top + _ROWS].ravel(), minlength=256)
    return list(map(int, np.flatnonzero(counts)))


_AT_LEAST, _AT_MOST = 32, 500  # masks that are looked at; more where they hold one class only


@dataclass
class Survey:
    """What the masks of a part hold, as far as they were looked at.

    Attributes:
        total: The number of masks of the part.
        looked: The number of masks that were looked at.
        values: The values that occur.
        classes: The classes that occur in masks that can be used.
        ignored: Whether a pixel of a mask that can be used is 255.
        empty: The masks without a class.
        bad: The reason by name, for masks that cannot be used.
        palettes: The first mask with a palette that shows a value, and its colour there, for each value.
        clash: Two masks that show a value in different colours, as a text; empty if there are none.
    """

    total: int
    looked: int = 0
    values: set[int] = field(default_factory=set)
    classes: set[int] = field(default_factory=set)
    ignored: bool = False
    empty: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    palettes: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    clash: str = ""


def survey(found: PixelSet, pairs: Pairs) -> Survey:
    """Look at masks, spread over a part, until every class has been seen.

    32 masks are looked at in any case, 500 at most, and all of them where they hold a single class.
    """
    seen = Survey(len(pairs))
    stride = max(1, next((s for s in range(len(pairs) // _AT_LEAST, 0, -1) if np.gcd(s, len(pairs)) == 1), 1))
    for index in range(len(pairs)):
        enough = len(seen.classes) == len(found.class_names) and seen.looked >= _AT_LEAST
        if enough or (seen.looked >= _AT_MOST and len(seen.classes) > 1):
            break
        _look(seen, found, pairs[index * stride % len(pairs)][1])
    return seen


def _look(seen: Survey, found: PixelSet, name: str) -> None:
    seen.looked += 1
    try:
        values = mask_values(name, name)
    except BadImageError as error:
        seen.bad[name] = error.reason
        return
    present = values_in(values)
    seen.values.update(present)
    table = found.table_for(name)
    problem = value_problem(values, table)
    if problem:
        seen.bad[name] = problem
        return
    classes = {int(table[value]) for value in present}
    seen.ignored |= IGNORE in classes
    classes.discard(IGNORE)
    seen.classes |= classes
    if not classes:
        seen.empty.append(name)
    with suppress(*DECODER_ERRORS):  # colours are only compared
        _compare_palette(seen, name, present)


def _compare_palette(seen: Survey, name: str, present: list[int]) -> None:
    with open_regular(name) as file, open_picture(file, FORMATS) as mask:
        if mask.mode != "P" or seen.clash:
            return
        colors = (mask.getpalette() or []) + [0] * 768
    for value in present:
        color = tuple(colors[3 * value : 3 * value + 3])
        other, before = seen.palettes.setdefault(value, (name, color))
        if before != color and not seen.clash:
            seen.clash = f"{value} is {before} in {basename(other)} and {color} in {basename(name)}"


def training_notes(seen: Survey, found: PixelSet) -> list[str]:
    """Say what is odd about the training masks.

    Raises:
        DataError: There is nothing to learn from the masks: not one can be used, or they hold less than two
            classes.
    """
    where, count = found.root, len(found.class_names)
    if count in seen.values and 0 not in seen.values and not found.tables:
        raise DataError(
            f"{where}: masks hold {count} and never 0, but the {count} classes are 0 to {count - 1}; subtract 1, "
            "or name what 0 would be in the first line of classes.txt"
        )
    bad = next((f"{basename(name)}: {reason}" for name, reason in seen.bad.items()), "")
    if len(seen.bad) == seen.looked:
        raise DataError(f"{where}: not one of its {seen.looked} training masks can be used, as {bad}")
    absent = [name for index, name in enumerate(found.class_names) if index not in seen.classes]
    why = _why(seen, found)
    if len(seen.classes) < 2:
        only = f"all are of {found.class_names[min(seen.classes)]!r}" if seen.classes else "all are 255"
        unused = f"; {len(seen.bad)} masks cannot be used, as {bad}" if bad else ""
        why = why or ", so there is nothing to learn"
        raise DataError(f"{where}: no training pixel of {quoted(absent)}; {only}{why}{unused}")
    return list(_notes(seen, where, "training", absent, why))


def evaluation_notes(seen: Survey, found: PixelSet, part: str = "validation") -> list[str]:
    """Say what is odd about the masks of the part that a network is evaluated on."""
    absent = [name for index, name in enumerate(found.class_names) if index not in seen.classes]
    effect = "; mean IoU leaves classes out that do not occur and are not predicted"
    return list(_notes(seen, found.root, part, absent, _why(seen, found) + effect))


def _why(seen: Survey, found: PixelSet) -> str:
    if found.tables and seen.values and not any(18 < value < IGNORE for value in seen.values):
        return ", and no label id is above 18: train ids belong in *_labelTrainIds.png"
    if seen.ignored and seen.values == {0, IGNORE}:
        return "; 255 is ignored: a mask of 0 and 255 needs 0 and 1"
    return "; 255 is ignored" if seen.ignored else ""


def _notes(seen: Survey, where: str, part: str, absent: list[str], why: str) -> Iterator[str]:
    among = f" in the {seen.looked} of {seen.total} masks looked at" if seen.looked < seen.total else ""
    if absent:
        yield f"{where}: no {part} pixel of {quoted(absent)}{among}{why}"
    if seen.empty:
        yield (
            f"{where}: {len(seen.empty)} {part} masks{among} have no class: every pixel is to be ignored "
            f"({basename(seen.empty[0])}{', …' if len(seen.empty) > 1 else ''})"
        )
    if seen.clash:
        yield (
            f"{where}: masks with palettes disagree: {seen.clash}; the class is the number, whatever its colour; "
            "save them with one palette if the colours are what you mean"
        )
