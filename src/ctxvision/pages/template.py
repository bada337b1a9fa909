"""The templates of pages: HTML that needs no script, no font and no other file."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from ctxvision._version import __version__
from ctxvision.foreign import visible
from ctxvision.pages.reading import PAGES, as_html
from ctxvision.plots.curves import Values, curve
from ctxvision.tasks.task import over_classes
from ctxvision.wording import percent


def page_template(name: str) -> Template:
    """Open a template of this folder.

    The template escapes inserted values, shows user-given names as `visible` does, and has filters that write
    numbers for people: ``percent``, ``duration``, ``count`` and ``score``; ``breakable`` lets a long name, such as
    that of a file, break between its parts: after slashes, underscores, dots and hyphens.

    Args:
        name: The name of the file, such as ``"detection.html.j2"``.
    """
    return _environment().get_template(name)


def data_words(split: str, samples: str) -> str:
    """Return words for the part of a data set that a page is about.

    Examples:
        >>> data_words("val", "images")
        'held-out images'
    """
    return {"val": "held-out ", "train": "training "}.get(split, "") + samples


def duration(seconds: float) -> str:
    """Write a time in hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"
    return f"{minutes}\u202fmin {rest}\u202fs" if minutes else f"{rest}\u202fs"


class Drawing(NamedTuple):
    """Curves over the epochs of a run, as a part of a page.

    Attributes:
        title: The title, in a few words.
        svg: The drawing.
        words: Two sentences: what the curves show, and how to read them.
    """

    title: str
    svg: Markup
    words: str


def drawn(
    title: str, curves: Mapping[str, Values], label: str, name: str, words: str, *, percent: bool = False
) -> Drawing:
    """Draw curves for a template; see `curve`, which escapes all texts."""
    return Drawing(title, Markup(curve(curves, label, name, percent=percent)), words)


LOSS = (
    "How far the answers are from the truth, after each epoch. Both curves should fall; where only the "
    "training’s does, the network learns its images by heart."
)
"""The words about the losses of any run."""


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: files(__package__).joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "count": _count,
        "score": _score,
        "breakable": _breakable,
    }
    environment.globals |= {"over_classes": over_classes, "version": __version__, "how_to_read": _how_to_read}
    return environment


def _finalized(value: object) -> object:
    """Show user-given names as `visible` does; values that are HTML already stay unchanged."""
    if isinstance(value, Markup):
        return Markup(visible(value, lines=True))
    return visible(value) if isinstance(value, str) else value


def _count(number: int | None) -> str:
    """Write a number with separated thousands; an unknown number, such as that of an exported file, is a dash."""
    return "–" if number is None else f"{number:,}"


def _score(score: float) -> str:
    return f"{round(score, 2) + 0.0:.2f}".replace("-", "−")


def _how_to_read(page: str, present: Mapping[str, object]) -> Markup:
    """Return the texts that explain a kind of page, a key of `ctxvision.pages.reading.PAGES`.

    Args:
        page: The kind of page.
        present: Whether the page has what a topic is about, by the name of the topic; others are always there.
    """
    return Markup(as_html([name for name in PAGES[page] if present.get(name, True)]))


_ENDS = re.compile(r"([_/\\.\-]+)(?=[^_/\\.\-])")


def _breakable(name: str) -> Markup:
    parts = _ENDS.split(visible(name))  # parts of the name, and what separates them, in turn
    ends = [*parts[1::2], ""]
    pairs = zip(parts[::2], ends, strict=True)
    return Markup("").join(Markup("{}{}<wbr>").format(*pair) if pair[1] else pair[0] for pair in pairs)
