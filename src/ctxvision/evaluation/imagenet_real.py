"""ImageNet-ReaL: the validation images of ImageNet with all the labels that fit them.

Source: L. Beyer et al., Are we done with ImageNet?, arXiv 2006.07159, 2020; the file ``real.json`` of
https://github.com/google-research/reassessed-imagenet.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxvision.files import reason

from .by_class import wilson_interval
from .error import EvaluationError

_SYNSET = re.compile(r"(?:.* \()?(n\d{8})\)?")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
CLASSES = 1000

Labels = list[list[int]]


def read_real(path: str | os.PathLike[str]) -> Labels:
    """Read the labels of every validation image, in the order of their numbers.

    Raises:
        EvaluationError: no such file, or not a list of lists of classes.
    """
    try:
        labels: Labels = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not JSON ({error})") from error
    good = isinstance(labels, list) and all(
        isinstance(row, list) and all(type(c) is int and 0 <= c < CLASSES for c in row) for row in labels
    )
    if not good or not labels:
        raise EvaluationError(
            f"{path}: expected a list with a list of classes, 0 to 999, for each validation image"
        )
    return labels


def class_indices(names: Sequence[str]) -> list[int] | None:
    """Return the place of each class among the sorted synsets, which is its number in ImageNet's lists.

    Args:
        names: synsets (``n01440764`` or ``tench (n01440764)``) or numbers.

    Returns:
        One number per class, each once; ``None`` where the names do not say.

    Examples:
        >>> class_indices(["goldfish (n01443537)", "tench (n01440764)"]), class_indices(["cat", "dog"])
        ([1, 0], None)
    """
    matches = [_SYNSET.fullmatch(name) for name in names]
    if all(matches):
        synsets = [match[1] for match in matches if match]
        order = {synset: place for place, synset in enumerate(sorted(synsets))}
        return [order[synset] for synset in synsets] if len(order) == len(names) else None
    if all(name.isascii() and name.isdigit() for name in names):
        numbers = [int(name) for name in names]
        return numbers if sorted(numbers) == list(range(len(names))) else None
    return None


def real_accuracy(
    labels: Labels, files: Sequence[str], predictions: NDArray[np.int64], names: Sequence[str]
) -> dict[str, Any]:
    """Count the predictions that are among the labels of their image.

    Args:
        labels: of all validation images.
        files: of the images that were predicted, in their order; matched by their ILSVRC numbers.
        predictions: classes of the network, (N,).
        names: the network's classes.

    Returns:
        ``images`` that have labels, ``skipped`` that have none, ``right``, ``top1`` and its ``top1_interval95``;
        the last two are ``None`` if no image has labels.

    Raises:
        EvaluationError: not ImageNet's classes, not its validation images, or more images than labels.
    """
    indices = class_indices(names)
    if len(names) != CLASSES or indices is None:
        raise EvaluationError(
            f"ImageNet-ReaL needs a network of ImageNet's {CLASSES} classes, named by synset or number; "
            f"this one has {len(names)}: {', '.join(names[:3])}, …"
        )
    rows = [labels[_row(file, len(labels))] for file in files]
    right = sum(indices[p] in row for p, row in zip(predictions.tolist(), rows, strict=True))
    total = sum(map(bool, rows))
    return {
        "images": total,
        "skipped": len(rows) - total,
        "right": right,
        "top1": right / total if total else None,
        "top1_interval95": list(wilson_interval(right, total)) if total else None,
    }


def _row(file: str, count: int) -> int:
    match = _NUMBER.search(os.path.basename(file))
    if not match:
        raise EvaluationError(f"{file}: ImageNet-ReaL is for validation images, ILSVRC2012_val_00000001 and so on")
    if not 1 <= int(match[1]) <= count:
        raise EvaluationError(f"{file}: the file of ImageNet-ReaL has labels for images 1 to {count} only")
    return int(match[1]) - 1
