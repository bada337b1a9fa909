"""Class folders that are numbered instead of named, as in ImageNet-V2.

Source: B. Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019; its archives unpack to folders
``0`` to ``999``.
"""

import os
from collections.abc import Sequence

from ctxvision.data.files import subfolders

from .error import EvaluationError
from .imagenet_real import class_indices


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
