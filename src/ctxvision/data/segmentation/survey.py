"""What masks hold before anything is trained on them: classes without a pixel, values that mean something else."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import basename

import numpy as np

from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.files import open_regular
from ctxvision.data.images.reading import DECODER_ERRORS, FORMATS, open_picture
from ctxvision.data.labelled import quoted

from .masks import mask_values, value_problem, values_in
from .source import Pairs, PixelSet
from .spec import IGNORE

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
