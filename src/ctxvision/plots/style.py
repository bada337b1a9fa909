"""How the pictures look: one width, one set of colours, light and dark; and the files they become."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ctxvision.foreign import visible

from .figures import _BLUE, _GRID, _ORANGE, _TEXT, _as_element
from .fonts import families, say_what_is_missing

WIDTH = 5.2  # inches: a phone shows it at its size, and so does a page of print
HEAT, SIGNED, SHARES = "viridis", "PuOr", "cividis"  # legible to the colour-blind
FEW = 25  # classes whose names fit beside them
_DPI = 300
_POINTS = 1500  # of dropped classes in one panel


class Ink(NamedTuple):
    """Colours of a picture."""

    text: str
    line: str
    soft: str
    page: str
    true: str
    answer: str
    stages: tuple[str, str, str, str]
    """Of stages 1 to 4."""

    def of(self, step: str) -> str:
        """Return the colour of ``"stage 2"``, …, ``"head"``."""
        return self.stages[int(step[-1]) - 1] if step[-1].isdigit() else self.text


# matplotlib cannot draw in the colours of the page: stand-ins, replaced in its SVG
_THEMED = Ink(_TEXT, _GRID, "#010105", "#010106", _ORANGE, _BLUE, ("#010107", "#010108", "#010109", "#01010a"))
_PRINTED = Ink(
    "#1b1f24", "#d4d9df", "#59636e", "#ffffff", "#b34700", "#0b5cad", ("#59636e", "#7b4fb5", "#00766c", "#0b5cad")
)
_VARIABLES = {
    _THEMED.soft: "var(--soft)",
    _THEMED.page: "var(--page)",
    **{colour: f"var(--stage-{number})" for number, colour in enumerate(_THEMED.stages, 1)},
}
_ON_PAPER = {
    "currentColor": _PRINTED.text,
    "var(--line)": _PRINTED.line,
    "var(--blue)": _PRINTED.answer,
    "var(--orange)": _PRINTED.true,
    "var(--soft)": _PRINTED.soft,
    "var(--page)": _PRINTED.page,
    **{f"var(--stage-{number})": colour for number, colour in enumerate(_PRINTED.stages, 1)},
}
_SVG = '<svg xmlns="http://www.w3.org/2000/svg" font-family="Helvetica, Arial, \'Liberation Sans\', sans-serif"'


@dataclass(frozen=True)
class Picture:
    """A picture as part of a page and as a file.

    Attributes:
        title: a few words.
        caption: a sentence or two that say how to read it.
        alt: what it shows, for readers who do not see it.
        element: SVG in the colours of the page.
        file: its name, ``….svg``, or ``….png`` where it shows pixels.
        data: what the file holds, in colours for print.
    """

    title: str
    caption: str
    alt: str
    element: str
    file: str
    data: bytes


def make_picture(
    draw: Callable[[Ink], Figure], name: str, *, title: str, caption: str, alt: str, pixels: bool = False
) -> Picture:
    """Draw a picture twice, for the page and for print.

    Args:
        draw: makes the figure in the colours given.
        name: unique in the page; of the file too.
        title: see `Picture`; so are the next two.
        caption: likewise.
        alt: likewise.
        pixels: it shows images or heat maps: the file is a PNG of 300 dots per inch, else SVG.
    """
    options = {
        "font.family": families(),
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.labelsize": 10,
        "legend.fontsize": 10,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
    }
    with rc_context(options):
        element = _as_element(draw(_THEMED), alt, name)
        # equal images would have equal ids, which nothing refers to
        element = re.sub(r'(<image [^>]*?) id="[^"]*"', r"\1", element)
        for stand_in, colour in _VARIABLES.items():
            element = element.replace(stand_in, colour)
        if pixels:
            file = io.BytesIO()
            figure = draw(_PRINTED)
            say_what_is_missing(text.get_text() for text in figure.findobj(Text))
            FigureCanvasAgg(figure)
            figure.savefig(file, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
            return Picture(title, caption, alt, element, f"{name}.png", file.getvalue())
    printed = element.replace("<svg", _SVG, 1)
    for variable, colour in _ON_PAPER.items():
        printed = printed.replace(variable, colour)
    return Picture(title, caption, alt, element, f"{name}.svg", printed.encode())


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width; the height is in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def bare(axes: Axes, ink: Ink, title: str = "") -> None:
    """Leave out ticks; they would number pixels, or nothing."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(visible(title, lines=True), color=ink.text)
    for spine in axes.spines.values():
        spine.set_color(ink.line)


def plain(axes: Axes, ink: Ink, *, grid: str = "both") -> None:
    """Dress axes with numbers."""
    axes.grid(color=ink.line, linewidth=0.6, axis=grid)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink.line, labelcolor=ink.text)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink.line)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(ink.text)


def color_bar(
    figure: Figure, axes: object, ink: Ink, colors: str, low: float, high: float, label: str, *, below: bool = True
) -> None:
    """Add the scale of a heat map."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), colors),
        ax=axes,
        orientation="horizontal" if below else "vertical",
        aspect=40 if below else 25,
        shrink=0.7 if below else 0.8,
        pad=0.03,
    )
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    bar.set_label(label, color=ink.text)
    bar.ax.tick_params(colors=ink.line, labelcolor=ink.text)
    bar.outline.set_edgecolor(ink.line)
    bar.solids.set_rasterized(True)


_BACKBONE = re.compile(r"^(network\.)?backbone\.(features\.)?(body\.)?(model\.)?")


def in_backbone(layer: str) -> str:
    """Leave out where the backbone lies in a larger network: a name that fits into a picture."""
    return _BACKBONE.sub("", layer)


def short(name: str, length: int = 18) -> str:
    """Cut a name that would not fit; see `visible`."""
    name = visible(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"


def spread(count: int, limit: int = _POINTS) -> list[int]:
    """Choose at most ``limit`` of ``count`` things, evenly."""
    chosen = min(count, limit)
    return [int((index + 0.5) * count / chosen) for index in range(chosen)]


def decimal(value: float) -> str:
    """Write two decimals, never minus nought."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def seen_pixels(image: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Turn a normalised image (C, H, W) into RGB in [0, 1], (H, W, 3)."""
    pixels = np.clip(image.transpose(1, 2, 0) * std + mean, 0, 1)
    return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels


def enlarged(pixels: np.ndarray, side: int = 224) -> np.ndarray:
    """Bring the longer side of an image near ``side``, or a large one to at most twice that.

    Small images are enlarged pixel by pixel: viewers that smooth would blur them.
    """
    times = max(1, side // max(pixels.shape[:2]))
    every = -(-max(pixels.shape[:2]) // (2 * side))
    if every == 1:
        return pixels.repeat(times, 0).repeat(times, 1)
    height, width = (length // every * every for length in pixels.shape[:2])
    if not height or not width:  # a strip
        return pixels
    parts = pixels[:height, :width].reshape(height // every, every, width // every, every, -1)
    return parts.mean((1, 3))
