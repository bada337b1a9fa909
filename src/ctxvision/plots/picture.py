"""A figure as a part of a page, in the page's colours, and as a file for print."""

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from ctxvision.foreign import visible

from .fonts import say_what_is_missing
from .palette import ON_PAGE, ON_PAPER, PRINTED, THEMED, Ink
from .style import DPI, settings

_SVG = '<svg xmlns="http://www.w3.org/2000/svg" font-family="Helvetica, Arial, \'Liberation Sans\', sans-serif"'


@dataclass(frozen=True)
class Picture:
    """A figure as part of a page and as a file; notebooks show it.

    Attributes:
        title: The title, in a few words.
        what: One sentence that says what the figure shows.
        how: One sentence that says how to read it.
        where: The networks and layers that the figure was read from; empty if there are none to name.
        alt: A text that describes the figure for readers who do not see it.
        element: The figure as an SVG element in the colours of the page.
        file: The name of the file, ``….svg``, or ``….png`` for figures that show pixels.
        data: The contents of the file, in colours for print.
    """

    title: str
    what: str
    how: str
    where: str
    alt: str
    element: str
    file: str
    data: bytes

    @property
    def caption(self) -> str:
        """All that is said about the figure, for a place that has one caption."""
        return " ".join(filter(None, (self.what, self.how, self.where)))

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        if self.file.endswith(".png"):
            return {"image/png": self.data}
        return {"image/svg+xml": self.data.decode()}


def make_picture(
    draw: Callable[[Ink], Figure],
    name: str,
    *,
    title: str,
    what: str,
    how: str,
    alt: str,
    where: str = "",
    pixels: bool = False,
) -> Picture:
    """Draw a figure twice: for the page and for print.

    Args:
        draw: A function that draws the figure in the colours that it is given.
        name: A name that is unique in the page; the name of the file follows from it.
        title: The title, in a few words.
        what: One sentence that says what the figure shows.
        how: One sentence that says how to read it.
        alt: A text that describes the figure for readers who do not see it.
        where: The networks and layers that the figure was read from.
        pixels: Whether the figure shows images or heat maps: the file is then a PNG of 300 dots per inch, else an
            SVG.
    """
    element = page_element(draw, name, alt)
    if pixels:
        return Picture(title, what, how, where, alt, element, f"{name}.png", png(draw, name))
    printed = element.replace("<svg", _SVG, 1)
    for variable, color in ON_PAPER.items():
        printed = printed.replace(variable, color)
    return Picture(title, what, how, where, alt, element, f"{name}.svg", printed.encode())


def page_element(draw: Callable[[Ink], Figure], name: str, alt: str) -> str:
    """Draw a figure as an SVG element in the page's font and colours.

    Args:
        draw: A function that draws the figure in the colours that it is given.
        name: A name that is unique in the page, for the ids inside the SVG.
        alt: A text that describes the figure for readers who do not see it.
    """
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(settings(name)):
        figure = draw(THEMED)
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)  # type: ignore[no-untyped-call]
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'id="|href="#|url\(#', lambda match: f"{match[0]}{name}-", svg)
    # equal images would have equal ids, which nothing refers to
    svg = re.sub(r'(<image [^>]*?) id="[^"]*"', r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for stand_in, variable in ON_PAGE.items():
        svg = svg.replace(stand_in, variable)
    # matplotlib escapes what XML has a meaning for, not what it cannot hold
    svg = visible(svg, lines=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(visible(alt))}"', 1)


def png(draw: Callable[[Ink], Figure], name: str) -> bytes:
    """Draw a figure in colours for print, and return the contents of a PNG of 300 dots per inch without date.

    Args:
        draw: A function that draws the figure in the colours that it is given.
        name: The name of the figure.
    """
    file = io.BytesIO()
    with rc_context(settings(name)):
        figure = draw(PRINTED)
        say_what_is_missing(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
        FigureCanvasAgg(figure)
        figure.savefig(file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()
