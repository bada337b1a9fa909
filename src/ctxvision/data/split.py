"""Which images are held out for validation."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence


def hold_out(keys: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Choose the validation images of one class.

    The choice depends on the names and the seed alone: not on the order of the files, the machine, or the
    other classes. Images that are added later move few of the earlier ones.

    Args:
        keys: names of the images of one class, without the folder that holds the data set.
        fraction: share to hold out, rounded to whole images; at least one of two or more, never all.
        seed: another seed holds out other images.

    Returns:
        The names held out; none from a class with a single image.
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
