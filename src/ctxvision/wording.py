"""Words that messages share, and columns of words."""

import difflib
from collections.abc import Iterable

from ctxvision.foreign import visible

_WIDEST = 60  # of a column, in characters: one long name must not push all others off the screen


def plural(count: int, noun: str, several: str | None = None) -> str:
    """Return a count with its noun, for example ``1 image``, ``2 images``; ``several`` is an irregular plural."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def column(texts: Iterable[object]) -> int:
    """Return the width of a column of texts that `visible` shows, in cells of a terminal.

    Chinese, Japanese and Korean characters take two cells each.
    """
    from rich.cells import cell_len

    return min(max((cell_len(visible(text)) for text in texts), default=0), _WIDEST)


def padded(text: object, width: int) -> str:
    """Return a text as `visible` shows it, filled up to a width in cells of a terminal; longer ones stay whole.

    Examples:
        >>> padded("猫", 4) + "|", padded("cat", 4) + "|"
        ('猫  |', 'cat |')
    """
    from rich.cells import cell_len

    shown = visible(text)
    return shown + " " * (width - cell_len(shown))


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as a percentage; it is never rounded to certainty, and ``None`` is a dash.

    Args:
        share: Share from 0 to 1.
        digits: Number of digits after the decimal point.
    """
    if share is None:
        return "–"
    text = f"{100 * share:.{digits}f}"
    if float(text) in (0, 100) and share not in (0, 1):
        text = f"{'<' if share < 0.5 else '>'}\u202f{10**-digits if share < 0.5 else 100 - 10**-digits:.{digits}f}"
    return f"{text}\u202f%"


def option(name: str) -> str:
    """Return the option of the command line for a name, ``--batch-size`` for ``batch_size``."""
    return "--" + name.removeprefix("--").replace("_", "-")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint to the known word that is most like another one; empty where none is.

    Examples:
        >>> did_you_mean("trian", ["train", "report"])
        ', did you mean train?'
        >>> did_you_mean("x", ["train", "report"])
        ''
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""
