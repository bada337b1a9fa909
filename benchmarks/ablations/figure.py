"""The figure of the ablations: every run a dot, every mean a bar, the papers' accuracies beside them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablations.networks import NETWORKS
from benchmarks.ablations.published import PUBLISHED
from benchmarks.ablations.report import Rows, by_seed
from benchmarks.ablations.statistics import summarise
from benchmarks.plot.style import FAINT, INK, STYLE, title

COLORS = {"contextual": "#CC79A7", "residual": "#0072B2"}


def draw(found: Rows, path: Path) -> None:
    """Draw the rows into an SVG or PNG file.

    Raises:
        ValueError: If the file's name ends otherwise.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"--figure must end in .svg or .png, got {path.name}")
    # no date inside: the same rows give the same file
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with matplotlib.rc_context(STYLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure(found).savefig(path, dpi=150, metadata=metadata)


def figure(found: Rows) -> Figure:
    """Return the figure: left what was measured, right what the papers report."""
    names = list(found)[::-1]  # the first is at the top
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7, 1.2 + 0.28 * len(names)))
        top = 1 - 0.72 / drawn.get_figheight()
        bottom = 0.5 / drawn.get_figheight()
        here = drawn.add_axes((0.2, bottom, 0.5, top - bottom))
        there = drawn.add_axes((0.74, bottom, 0.23, top - bottom))
        for place, name in enumerate(names):
            values, color = by_seed(found[name]), COLORS[NETWORKS[name].family]
            here.plot(list(values.values()), [place] * len(values), "o", color=color, markersize=4, alpha=0.6)
            here.plot([summarise(values).mean], [place], "|", color=INK, markersize=13, markeredgewidth=1.8)
            if name in PUBLISHED:
                there.plot([PUBLISHED[name].top1], [place], "s", color=color, markersize=4, markerfacecolor="w")
        _rows(here, names, "accuracy on the test scenes, %")
        _rows(there, [""] * len(names), "ImageNet-1k, papers, %")
        row = next(iter(found.values()))[0]
        seeds = max(len(own) for own in found.values())
        under = f"{row['device']}, size {row['size']}, {seeds} seeds, torch {row['torch']}, commit {row['commit']}"
        title(
            drawn,
            "Pairs of digits on clutter, at equal parameters within a family (a colour)",
            f"{under}; dots are seeds, bars their mean",
        )
    return drawn


def _rows(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0, colors=INK if names[0] else FAINT)
