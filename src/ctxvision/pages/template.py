"""How a page becomes HTML that needs nothing else: no script, no font, no other file."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from ctxvision._version import __version__
from ctxvision.foreign import visible
from ctxvision.tasks.means import over_classes


def page_template(name: str) -> Template:
    """Open a template of this folder.

    It escapes what is put in, shows names of others as `visible` does, and has filters that write numbers for
    people: ``percent``, ``duration``, ``count`` and ``score``; ``breakable`` lets a name break after underscores.

    Args:
        name: of the file, such as ``"detection.html.j2"``.
    """
    return _environment().get_template(name)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as a percentage; it is never rounded to certainty, and ``None`` is a dash.

    Args:
        share: from 0 to 1.
        digits: after the decimal point.
    """
    if share is None:
        return "–"
    text = f"{100 * share:.{digits}f}"
    if float(text) in (0, 100) and share not in (0, 1):
        text = f"{'<' if share < 0.5 else '>'}\u2009{10**-digits if share < 0.5 else 100 - 10**-digits:.{digits}f}"
    return f"{text}\u202f%"


def duration(seconds: float) -> str:
    """Write a time in hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"
    return f"{minutes}\u202fmin {rest}\u202fs" if minutes else f"{rest}\u202fs"


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
        "count": "{:,}".format,
        "score": _score,
        "breakable": _breakable,
    }
    environment.globals |= {"over_classes": over_classes, "version": __version__}
    return environment


def _finalized(value: object) -> object:
    """Show names of others as `visible` does; what is a piece of a page already keeps its lines."""
    if isinstance(value, Markup):
        return Markup(visible(value, lines=True))
    return visible(value) if isinstance(value, str) else value


def _score(score: float) -> str:
    return f"{round(score, 2) + 0.0:.2f}".replace("-", "−")


def _breakable(name: str) -> Markup:
    return Markup("_<wbr>").join(name.split("_"))
