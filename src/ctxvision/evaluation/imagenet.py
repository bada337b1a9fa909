"""ImageNet-ReaL, and class folders that are numbered instead of named, as in ImageNet-V2.

Source: L. Beyer et al., Are we done with ImageNet?, arXiv 2006.07159, 2020: each validation image with all labels
that are right for it, in the file ``real.json`` of https://github.com/google-research/reassessed-imagenet.
B. Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019, whose archives unpack to folders
``0`` to ``999``.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxvision.data.files import subfolders
from ctxvision.data.images.imagenet import NAMED
from ctxvision.files import reason

from .answers import wilson_interval
from .scores import EvaluationError

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
CLASSES = 1000

Labels = list[list[int]]


def read_real(path: str | os.PathLike[str]) -> Labels:
    """Read the labels of every validation image, numbers from 0 to 999, in the order of the images' numbers.

    Args:
        path: The path of ``real.json``; or ``"timm"``, which takes the labels that timm carries, unless there is a
            file of this name.

    Raises:
        EvaluationError: There is no such file, or it does not hold a list of lists of classes.
    """
    if os.fspath(path) == "timm" and not os.path.exists(path):
        from timm.data import RealLabelsImagenet

        return list(RealLabelsImagenet(range(50_000)).real_labels.values())
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
        names: The names of the classes: synsets (``n01440764`` or ``tench (n01440764)``) or numbers.

    Returns:
        The number of each class, in the order of the names, each number once; ``None`` if the names do not
        determine it.

    Examples:
        >>> class_indices(["goldfish (n01443537)", "tench (n01440764)"]), class_indices(["cat", "dog"])
        ([1, 0], None)
    """
    matches = [NAMED.fullmatch(name) for name in names]
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
        labels: The labels of all validation images.
        files: The names of the predicted images, in their order; their ILSVRC numbers determine the labels.
        predictions: The numbers of the predicted classes of the network, (N,) int64.
        names: The names of the network's classes.

    Returns:
        The number of ``images`` that have labels, the number ``skipped`` of those that have none, the number
        ``right``, the accuracy ``top1`` and its interval ``top1_interval95``; the last two are ``None`` if no
        image has labels.

    Raises:
        EvaluationError: The classes are not ImageNet's, the images are not its validation images, or there are
            more images than labels.
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


def folders_by_class(data: str, class_names: Sequence[str], *, forced: bool) -> tuple[str, ...] | None:
    """Find out whether the class folders of DATA are numbered, and which folder belongs to which class.

    Folders are read by number if they are exactly 0 to C − 1 for a network of C classes none of which has such a
    name, or if the user requests it. If all classes are synsets, the number is the place of the class among the
    sorted synsets, which is ImageNet's own order; else it is the number of the network's output.

    Args:
        data: The DATA argument.
        class_names: The names of the network's classes.
        forced: Whether the user requests numbered folders; some of the folders are then enough.

    Returns:
        The folder of every class, in the order of the network's classes; ``None`` if the folders have the names of
        classes.

    Raises:
        EvaluationError: The user requests numbered folders, but there are other folders, or numbers beyond the
            network's classes.
    """
    numbers = _numbered(data)
    if numbers is None:
        if forced:
            raise EvaluationError(f"{data}: --labels-by-index needs a folder of folders that are named 0, 1, 2, …")
        return None
    count = len(class_names)
    if forced and max(numbers) >= count:
        raise EvaluationError(
            f"{data}: the folder {numbers[max(numbers)]} is beyond the network's {count} classes"
        )
    taken = set(class_names) & set(numbers.values())
    if not forced and (sorted(numbers) != list(range(count)) or taken):
        return None
    # names that are numbers themselves are not synsets: then the output decides
    synsets = None if all(map(str.isdigit, class_names)) else class_indices(class_names)
    return tuple(numbers.get(place, str(place)) for place in synsets or range(count))


def _numbered(data: str) -> dict[int, str] | None:
    """Return the names of the class folders by number; ``None`` if one is not a number or there are none."""
    if not os.path.isdir(data):
        return None
    names = subfolders(data)
    if not names or not all(name.isascii() and name.isdigit() for name in names):
        return None
    numbers = {int(name): name for name in names}
    return numbers if len(numbers) == len(names) else None
