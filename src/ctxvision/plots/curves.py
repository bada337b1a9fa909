"""The curves of a run as one PNG: losses, accuracies, learning rate and what else was measured per epoch."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .fonts import say_what_is_missing

# Okabe and Ito's colours, which differ for colour-blind readers too; markers and dashes differ for all
STYLES = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#009E73", "marker": "^", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    {"color": "#E69F00", "marker": "v", "linestyle": (0, (5, 1))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (1, 1))},
)
# sized so that a page may show them 4 inches (at 100 dots per inch 400 pixels) wide
FONT = {"font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "text.parse_math": False}
WIDTH, DOTS = 4.0, 250
_MARKED = 30  # epochs, beyond which points are no longer marked

Values = Sequence[float | None]


def draw_curves(epochs: Sequence[int], columns: Mapping[str, Values]) -> bytes:
    """Draw the columns of ``metrics.csv`` as a PNG, one panel for each kind of quantity.

    Args:
        epochs: numbers on the x-axis.
        columns: values by the names that ``metrics.csv`` has for them; gaps are ``None``.
    """
    panels = _panels({name: values for name, values in columns.items() if any(v is not None for v in values)})
    with rc_context(FONT):
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(WIDTH, 0.2 + 1.75 * rows), dpi=DOTS, layout="constrained")
        for number, (title, (unit, curves)) in enumerate(panels.items(), 1):
            _draw(figure.add_subplot(rows, 2, number), title, unit, epochs, curves)
        return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG, without the date."""
    say_what_is_missing(text.get_text() for text in figure.findobj(Text))
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def _panels(columns: Mapping[str, Values]) -> dict[str, tuple[str, dict[str, Values]]]:
    """Group the columns: unit and curves by title."""
    panels: dict[str, tuple[str, dict[str, Values]]] = {}
    for name, values in columns.items():
        if name.endswith("loss"):
            title, unit, label = (
                "Loss",
                "nats",
                {"train_loss": "training", "val_loss": "validation"}.get(name, name),
            )
        elif name == "lr":
            title, unit, label = "Learning rate", "", "learning rate"
        elif name == "temperature":
            title, unit, label = "Temperature τ", "", "τ"
        elif name.startswith("val_recall_"):
            title, unit, label = "Recall of class sets", "share", f"stage {name.removeprefix('val_recall_')}"
        elif name.startswith("val_top"):
            title, unit, label = "Validation accuracy", "share", f"top-{name.removeprefix('val_top')}"
        else:
            title, unit, label = "Validation", "", name.removeprefix("val_")
        panels.setdefault(title, (unit, {}))[1][label] = values
    order = ["Loss", "Validation accuracy", "Validation", "Learning rate", "Recall of class sets", "Temperature τ"]
    return {title: panels[title] for title in order if title in panels}


def _draw(axes: Axes, title: str, unit: str, epochs: Sequence[int], curves: Mapping[str, Values]) -> None:
    for number, (label, values) in enumerate(curves.items()):
        points = [(x, y) for x, y in zip(epochs, values, strict=True) if y is not None]
        size = 3.0 if len(points) <= _MARKED else 0.0
        style = STYLES[number % len(STYLES)]
        # curves on top of each other: the later are thinner, so that each shows
        width = max(1.9 - 0.35 * number, 0.8)
        axes.plot(*zip(*points, strict=True), label=label, linewidth=width, markersize=size, **style)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if unit == "share":
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    elif unit:
        axes.set_ylabel(unit)
    if title == "Learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes.set_ylim(bottom=0)
    axes.grid(color="#d4d9df", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=7, handlelength=2.2)
