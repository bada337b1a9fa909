"""The style of figures: colours, one width, font sizes, axes with and without numbers, colour bars."""

import re
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctxvision.foreign import visible

from .fonts import families

HEAT, SIGNED, SHARES = "viridis", "PuOr", "cividis"
"""matplotlib's colour maps for evidence, for what has a sign, and for shares: legible to the colour-blind."""

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Colours that people who see fewer colours can tell apart (Okabe and Ito, Color Universal Design, 2008)."""


class Ink(NamedTuple):
    """The colours of one figure, as ``#rrggbb``.

    Attributes:
        text: The colour of words and of important lines.
        line: The colour of axes and grids.
        soft: The colour of parts that are less important than the others.
        page: The colour of the background.
        true: The colour that marks the true class.
        answer: The colour that marks the answer of the network.
        stages: The colours of stages 1 to 4 of a network.
    """

    text: str
    line: str
    soft: str
    page: str
    true: str
    answer: str
    stages: tuple[str, str, str, str]

    def of(self, step: str) -> str:
        """Return the colour of a step of the class funnel: ``"stage 2"``, …, ``"head"``."""
        return self.stages[int(step[-1]) - 1] if step[-1].isdigit() else self.text

    @property
    def series(self) -> tuple[str, ...]:
        """The colours of curves, in the order in which they are drawn."""
        return (self.answer, self.true, self.text, self.stages[1], self.stages[2], self.soft)


THEMED = Ink(
    "#010101", "#010102", "#010105", "#010106", "#010104", "#010103", ("#010107", "#010108", "#010109", "#01010a")
)
"""Stand-ins for the page's own colours, in which matplotlib cannot draw; they are replaced in its SVG."""

PRINTED = Ink(
    "#1b1f24", "#d4d9df", "#59636e", "#ffffff", "#b34700", "#0b5cad", ("#59636e", "#7b4fb5", "#00766c", "#0b5cad")
)
"""Colours on white paper."""

_VARIABLES = Ink(
    "currentColor",
    "var(--line)",
    "var(--soft)",
    "var(--page)",
    "var(--orange)",
    "var(--blue)",
    ("var(--stage-1)", "var(--stage-2)", "var(--stage-3)", "var(--stage-4)"),
)


def _pairs(of: Ink, to: Ink) -> dict[str, str]:
    return dict(zip((*of[:-1], *of.stages), (*to[:-1], *to.stages), strict=True))


ON_PAGE = _pairs(THEMED, _VARIABLES)
"""The page's CSS variable for each stand-in."""

ON_PAPER = _pairs(_VARIABLES, PRINTED)
"""The colour on paper for each of the page's CSS variables."""


WIDTH = 5.2  # inches: a phone shows it at its size, and so does a page of print
DPI = 300
FEW = 25  # classes whose names fit beside them
_POINTS = 1500  # of dropped classes in one panel
_BACKBONE = re.compile(r"^(network\.)?backbone\.(features\.)?(body\.)?(model\.)?")


def settings(name: str) -> Any:
    """Return matplotlib's settings for a figure, for ``matplotlib.rc_context``.

    Args:
        name: The name of the figure; the ids inside its SVG follow from it.
    """
    return {
        "font.family": families(),
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "image.interpolation": "none",
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.labelsize": 10,
        "legend.fontsize": 10,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
    }


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width; ``height`` is in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def bare(axes: Axes, ink: Ink, title: str = "") -> None:
    """Style axes that show an image: a title, no ticks and no numbers."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(visible(title, lines=True), color=ink.text)
    for spine in axes.spines.values():
        spine.set_color(ink.line)


def plain(axes: Axes, ink: Ink, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Style axes that have numbers.

    Args:
        axes: The axes to style.
        ink: The colours of words and lines.
        grid: The axes whose values have grid lines.
    """
    axes.grid(color=ink.line, linewidth=0.6, axis=grid)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink.line, labelcolor=ink.text)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink.line)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(ink.text)


def color_bar(
    figure: Figure, axes: Axes | np.ndarray, ink: Ink, colors: str, low: float, high: float, label: str
) -> None:
    """Add the scale of a heat map below axes.

    Args:
        figure: The figure that the axes belong to.
        axes: The axes, or an array of several axes.
        ink: The colours of words and lines.
        colors: The name of the colour map in matplotlib.
        low: The value of the first colour.
        high: The value of the last colour.
        label: The name of the quantity on the scale.
    """
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), colors),
        ax=list(np.ravel(np.array(axes, object))),
        orientation="horizontal",
        aspect=40,
        shrink=0.7,
        pad=0.03,
    )
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    bar.set_label(label, color=ink.text)
    bar.ax.tick_params(colors=ink.line, labelcolor=ink.text)
    bar.outline.set_edgecolor(ink.line)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)


def in_backbone(layer: str) -> str:
    """Shorten the name of a layer for a picture: leave out the path of the backbone in a larger network."""
    return _BACKBONE.sub("", layer)


def short(name: str, length: int = 18) -> str:
    """Cut a name that is longer than ``length`` characters; see `visible`."""
    name = visible(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"


def spread(count: int, limit: int = _POINTS) -> list[int]:
    """Choose at most ``limit`` of ``count`` positions evenly.

    Examples:
        >>> spread(10, 3)
        [1, 5, 8]
    """
    chosen = min(count, limit)
    return [int((index + 0.5) * count / chosen) for index in range(chosen)]


def decimal(value: float) -> str:
    """Write a number with two decimals, and never as minus zero.

    Examples:
        >>> decimal(-0.001), decimal(-1.5)
        ('0.00', '−1.50')
    """
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
