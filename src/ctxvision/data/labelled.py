"""Samples with one class each, as every source of images or videos is read, and which of them are held out."""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias

from PIL import Image

from .error import DataError
from .spec import Spec

Samples: TypeAlias = list[tuple[str, int]]
Found: TypeAlias = dict[str, dict[str, str]]  # class → key → name; the key decides the split, the name is opened
Opener: TypeAlias = Callable[[str], str | BinaryIO | Image.Image]

IMBALANCE = 10  # classes that differ more in size are reported


def as_path(name: str) -> str:
    """Open a sample whose name is a path: `read_image` does the rest."""
    return name


@dataclass(frozen=True)
class SplitRule:
    """Which samples of a source without a validation part are held out, and which classes there are.

    Attributes:
        fraction: The share of each class to hold out.
        seed: The seed that chooses which samples are held out.
        class_names: The classes of a trained network, in its order; ``None`` takes those of the source.

    Raises:
        DataError: The share does not lie between 0 and 1.
    """

    fraction: float = 0.2
    seed: int = 0
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise DataError(f"the validation fraction must lie between 0 and 1, got {self.fraction}")

    @classmethod
    def of(
        cls, spec: Spec | None, fraction: float, seed: int, class_names: Sequence[str] | None = None
    ) -> "SplitRule":
        """Return the rule of a trained network's data, or without a network the rule of the arguments.

        Args:
            spec: The description of the network's data.
            fraction: The share of each class to hold out.
            seed: The seed that chooses which samples are held out.
            class_names: The classes in another order than that of the source.
        """
        if spec:
            return cls(spec.val_fraction, spec.split_seed, spec.class_names)
        return cls(fraction, seed, class_names)


DEFAULT_SPLIT = SplitRule()


@dataclass
class LabelledSet:
    """The classes, the training and the validation samples that a source holds.

    Attributes:
        class_names: The name of each class, in the order of the labels.
        train: The (name, label) pairs of the training samples.
        val: The (name, label) pairs of the samples that are held out.
        fingerprint: A digest of the names of a set that was split here; empty where it came in two parts.
        notes: The lines that a reader should know about the source.
        root: The folder that names begin with, so that they can be shown without it.
        open_image: The function that makes of a name what `read_image` reads; it travels to the workers.
        image_size: The height and width of every image, where they are all alike and small; else ``None``.
        mirrored: Whether the mirror image of a sample is of the same class.
    """

    class_names: tuple[str, ...]
    train: Samples = field(default_factory=list)
    val: Samples = field(default_factory=list)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    root: str = "."
    open_image: Opener = as_path
    image_size: int | None = None
    mirrored: bool = True

    @property
    def train_counts(self) -> tuple[int, ...]:
        """The number of training samples of every class."""
        counts = [0] * len(self.class_names)
        for _, label in self.train:
            counts[label] += 1
        return tuple(counts)


def arrange(
    train: Found,
    val: Found | None,
    *,
    where: str,
    where_val: str = "",
    split: SplitRule = DEFAULT_SPLIT,
) -> LabelledSet:
    """Give the classes their labels, and hold out a share of each where there is no validation part.

    The order of ``train`` is that of the labels. The split depends on the keys and the seed alone, see
    `hold_out`.

    Args:
        train: The training samples by class.
        val: The validation samples by class; ``None`` holds out a share of ``train``.
        where: The name of ``train`` in messages.
        where_val: The name of ``val`` in messages.
        split: The rule that says which samples are held out, and which classes there are; by default those that
            have samples.

    Raises:
        DataError: There are no samples, or there is a class that the network or the training part lacks.
    """
    notes, class_names = list[str](), split.class_names
    found = _without_empty(train, where, notes)
    if not found and not (val and class_names):
        where_not = f"its {len(train)} classes ({quoted(list(train))})" if train else "it"
        raise DataError(f"{where}: no images in {where_not}")
    names = tuple(class_names or found)
    _require_known(found, names, where, "the network")
    labelled = LabelledSet(names, notes=notes)
    if val is None:
        _split(labelled, found, where, split)
    else:
        held_out = _without_empty(val, where_val, notes)
        _require_known(held_out, names, where_val, "the network" if class_names else where)
        unseen = [name for name in names if name not in held_out]
        if unseen:
            notes.append(f"{where_val}: no images of {quoted(unseen)}, so their accuracy stays unknown")
        labelled.train, labelled.val = _labelled(found, names), _labelled(held_out, names)
    absent = [name for name in names if name not in found]
    if absent and found:
        notes.append(f"{where}: no images of {quoted(absent)}")
    notes.extend(_imbalance(labelled, where))
    return labelled


def _split(labelled: LabelledSet, found: Found, where: str, split: SplitRule) -> None:
    keys: list[str] = []
    lonely: list[str] = []
    for label, name in enumerate(labelled.class_names):
        images = found.get(name, {})
        held_out = hold_out(list(images), split.fraction, split.seed)
        labelled.val += [(image, label) for key, image in images.items() if key in held_out]
        labelled.train += [(image, label) for key, image in images.items() if key not in held_out]
        keys += images
        if len(images) == 1:
            lonely.append(name)
    if lonely:
        labelled.notes.append(
            f"{where}: the only image of {quoted(lonely)} is used for training, none to validate"
        )
    labelled.fingerprint = fingerprint(keys)


def _labelled(found: Found, names: Sequence[str]) -> Samples:
    return [(image, label) for label, name in enumerate(names) for image in found.get(name, {}).values()]


def _without_empty(found: Found, where: str, notes: list[str]) -> Found:
    empty = [name for name, images in found.items() if not images]
    if empty and len(empty) < len(found):
        notes.append(f"{where}: no images in {quoted(empty)}, left out of the classes")
    return {name: images for name, images in found.items() if images}


def _imbalance(labelled: LabelledSet, where: str) -> list[str]:
    counts = {name: n for name, n in zip(labelled.class_names, labelled.train_counts, strict=True) if n}
    if not counts:
        return []
    small, large = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[large] <= IMBALANCE * counts[small]:
        return []
    return [
        f"{where}: classes differ {counts[large] / counts[small]:.0f}-fold in size, from {counts[small]} training "
        f"images of {small!r} to {counts[large]} of {large!r}; top-1 favours the large ones"
    ]


def _require_known(found: Mapping[str, object], known: Sequence[str], where: str, owner: str) -> None:
    unknown = [name for name in found if name not in set(known)]
    if unknown:
        raise DataError(f"{where}: {owner} has no class {quoted(unknown)}; it has {quoted(list(known))}")


def hold_out(keys: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Choose the validation images of one class.

    The choice depends on the names and the seed alone: not on the order of the files, the machine, or the
    other classes. Images that are added later move few of the earlier ones.

    Args:
        keys: The names of the samples of one class, without the folder that holds the data set.
        fraction: The share to hold out, rounded to whole samples; at least one of two or more, never all.
        seed: The seed; another seed holds out other samples.

    Returns:
        The names that are held out; none from a class with a single image.
    """
    if len(keys) < 2:
        return set()
    count = min(max(1, int(len(keys) * fraction + 0.5)), len(keys) - 1)
    return set(sorted(keys, key=lambda key: (_digest([str(seed), key]), key))[:count])


def fingerprint(keys: Iterable[str]) -> str:
    """Return a short digest of a set of names, in whatever order they come."""
    return _digest(sorted(keys))[:16]


def _digest(parts: Iterable[str]) -> str:
    # macOS stores accents decomposed, Linux as typed
    text = "\0".join(unicodedata.normalize("NFC", part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def quoted(names: Sequence[str], limit: int = 5) -> str:
    """Quote the first few names for a message, and say how many more there are."""
    return ", ".join(map(repr, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def require_two_classes(source: str | os.PathLike[str], class_names: Sequence[str]) -> None:
    """Refuse a source that a classifier cannot learn from.

    Raises:
        DataError: The source has one class, or none.
    """
    if len(class_names) < 2:
        what = f"has only {quoted(class_names)}" if class_names else "has none"
        raise DataError(f"{source}: a classifier needs at least two classes; this {what}")


def in_order(labels: Sequence[str]) -> list[str]:
    """Sort class names alphabetically, or by value where all are numbers: the order where a source has none.

    Examples:
        >>> in_order(["10", "9", "10"]), in_order(["10", "9", "b"])
        (['9', '10'], ['10', '9', 'b'])
    """
    unique = set(labels)
    numbers = all(label.isascii() and label.isdigit() for label in unique)
    return sorted(unique, key=(lambda label: (int(label), label)) if numbers else None)
