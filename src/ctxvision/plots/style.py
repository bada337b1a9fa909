"""The style of figures: one width, font sizes, axes with and without numbers, colour bars, short names."""

import re
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctxvision.foreign import visible

from .fonts import families
from .palette import Ink

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
    figure: Figure,
    axes: Axes | np.ndarray | list[Axes],
    ink: Ink,
    colors: str,
    low: float,
    high: float,
    label: str,
    *,
    inside: bool = False,
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
        inside: Whether the scale takes the place of one pair of axes that has nothing else to show.
    """
    colored = ScalarMappable(Normalize(low, high), colors)
    if inside:
        assert isinstance(axes, Axes)
        axes.set_axis_off()
        bar = figure.colorbar(colored, cax=axes.inset_axes((0.05, 0.5, 0.9, 0.06)), orientation="horizontal")
        label = "\n(".join(label.split(" ("))  # it is narrow
    else:
        below = list(np.ravel(np.array(axes, object)))
        bar = figure.colorbar(colored, ax=below, orientation="horizontal", aspect=40, shrink=0.7, pad=0.03)
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
