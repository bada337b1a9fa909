"""Curves over the epochs of a run: one panel as a part of a page, or all measurements as one PNG."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .palette import Ink
from .picture import page_element, png
from .style import new_figure, plain

Values = Sequence[float | None]
"""One for each epoch; ``None`` where nothing was measured."""

# curves differ in marker and line, not by colour alone
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES: tuple[str | tuple[int, tuple[int, int]], ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_STAGE = re.compile(r"stage [1-4]")  # its curves have the colour of the stage, as elsewhere
_MARKED = 40  # epochs, beyond which points are no longer marked
_LONGEST = 20  # line of a legend, in characters: a longer one pushes the panels off the figure
_PANELS = ("Loss", "Validation accuracy", "Validation", "Learning rate", "Recall of class sets", "Temperature τ")


def curve(curves: Mapping[str, Values], label: str, name: str, *, percent: bool = False) -> str:
    """Draw curves over epochs 1, 2, … as an SVG element in the page's font and colours.

    Args:
        curves: The values of each curve by its name, one for each epoch; ``None`` where an epoch has no value.
        label: A text that describes the figure for readers who do not see it.
        name: A name that is unique in the page, for the ids inside the SVG.
        percent: Whether values are shown as percentages: 0.5 as 50 %.
    """

    def draw(ink: Ink) -> Figure:
        figure = new_figure(3.2)
        axes = figure.add_subplot()
        _plot(axes, ink, range(1, 1 + max(map(len, curves.values()))), curves, percent)
        return figure

    return page_element(draw, name, label)


def draw_curves(epochs: Sequence[int], columns: Mapping[str, Values]) -> bytes:
    """Draw the columns of ``metrics.csv`` as a PNG, one panel for each kind of quantity.

    Args:
        epochs: The numbers of the epochs on the x-axis.
        columns: The values of each column by its name in ``metrics.csv``, one for each epoch; ``None`` where an
            epoch has no value.

    Returns:
        The contents of the PNG.
    """
    known = {
        name: [v if v is not None and isfinite(v) else None for v in values] for name, values in columns.items()
    }
    panels = _panels({name: values for name, values in known.items() if any(v is not None for v in values)})

    def draw(ink: Ink) -> Figure:
        rows = -(-len(panels) // 2)
        figure = new_figure(0.2 + 2.2 * rows)
        for number, (title, curves) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(rows, 2, number)
            axes.set_title(title)
            _plot(axes, ink, epochs, curves, title.startswith(("Validation accuracy", "Recall")))
            if title == "Learning rate":
                axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
                axes.set_ylim(bottom=0)
        return figure

    return png(draw, "curves")


def _panels(columns: Mapping[str, Values]) -> dict[str, dict[str, Values]]:
    """Group the columns by the title of their panel."""
    panels: dict[str, dict[str, Values]] = {}
    for name, values in columns.items():
        if name.endswith("loss"):
            title, label = "Loss", {"train_loss": "training", "val_loss": "validation"}.get(name, name)
        elif name == "lr":
            title, label = "Learning rate", "learning rate"
        elif name == "temperature":
            title, label = "Temperature τ", "τ"
        elif name.startswith("val_recall_"):
            title, label = "Recall of class sets", f"stage {name.removeprefix('val_recall_')}"
        elif name.startswith("val_top"):
            title, label = "Validation accuracy", f"top-{name.removeprefix('val_top')}"
        else:
            title, label = "Validation", name.removeprefix("val_")
        panels.setdefault(title, {})[label] = values
    return {title: panels[title] for title in _PANELS if title in panels}


def _told_apart(curves: Mapping[str, Values]) -> list[tuple[list[str], Values]]:
    """Join the names of curves that are equal everywhere: of such curves only the uppermost would be seen."""
    joined: dict[tuple[float | None, ...], list[str]] = {}
    for label, values in curves.items():
        joined.setdefault(tuple(values), []).append(label)
    return [(labels, values) for values, labels in joined.items()]


def _plot(axes: Axes, ink: Ink, epochs: Sequence[int], curves: Mapping[str, Values], percent: bool) -> None:
    for number, (labels, values) in enumerate(_told_apart(curves)):
        # gaps are bridged: epochs without validation must not hide the others
        points = [(x, y) for x, y in zip(epochs, values, strict=False) if y is not None]
        place = number % len(_MARKERS)
        stage = _STAGE.fullmatch(labels[0])
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            label=textwrap.fill(" = ".join(labels), _LONGEST),
            color=ink.of(stage[0]) if stage else ink.series[place],
            marker=_MARKERS[place],
            linestyle=_LINES[place],
            # of curves on top of each other the later are thinner, so that each shows
            linewidth=max(2.0 - 0.35 * number, 0.8),
            markersize=3.5 if len(points) <= _MARKED else 0,
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None, symbol=" %"))
        if (limits := axes.get_ylim())[0] < 0:  # no share is below 0, where only its marker has room
            axes.set_ylim(-0.04 * limits[1], limits[1])
    plain(axes, ink)
    if len(curves) > 1:  # a joined name says that the others are not missing
        axes.legend(frameon=False, labelcolor=ink.text, fontsize=9, handlelength=2.2)
