"""The figure of the ablations: every seed's accuracy, and the way there."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablations.networks import NETWORKS, ONE_RATE
from benchmarks.ablations.report import Rows, by_seed, curve
from benchmarks.ablations.statistics import summarise
from benchmarks.plot.style import FAINT, INK, STYLE, title

PRIOR, NO_PRIOR, FASTER, RESIDUAL = "#CC79A7", "#E69F00", "#767676", "#0072B2"
_DASHES = ("-", "--", ":", "-.", (0, (7, 1)), (0, (1, 3)), (0, (6, 2, 2, 2)), (0, (4, 1, 1, 1, 1, 1)))


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


def color_of(name: str) -> str:
    """Return a network's colour: by family, in the contextual one by whether a prior reaches the features.

    Networks of the contextual family whose offsets have no rate of their own have a colour, too.
    """
    network = NETWORKS[name]
    if network.family == "residual":
        return RESIDUAL
    if name.endswith(ONE_RATE):
        return FASTER
    return PRIOR if network.has_stage_losses and network.use != "zero" else NO_PRIOR


def label_of(name: str) -> str:
    """Return a network's name as the figure has it."""
    return name.removesuffix(ONE_RATE) + ", one rate" if name.endswith(ONE_RATE) else name


def figure(found: Rows) -> Figure:
    """Return the figure: left the test artist, every seed; right the validation artist, epoch by epoch."""
    names = list(found)[::-1]  # the first is at the top
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(9.5, max(3.4, 1.3 + 0.27 * len(names))))
        top = 1 - 0.72 / drawn.get_figheight()
        bottom = 0.5 / drawn.get_figheight()
        test = drawn.add_axes((0.22, bottom, 0.29, top - bottom))
        way = drawn.add_axes((0.57, bottom, 0.2, top - bottom))
        for place, name in enumerate(names):
            values = by_seed(found[name])
            test.plot(
                list(values.values()), [place] * len(values), "o", color=color_of(name), markersize=4, alpha=0.6
            )
            test.plot([summarise(values).mean], [place], "|", color=INK, markersize=13, markeredgewidth=1.8)
        _rows(test, [label_of(name) for name in names], "test artist, %")
        _curves(way, found)
        rows = [row for own in found.values() for row in own]
        devices, versions = (" and ".join(sorted({row[what] for row in rows})) for what in ("device", "torch"))
        least, most = (f(len(own) for own in found.values()) for f in (min, max))
        seeds = f"{most} seeds" if least == most else f"{least} to {most} seeds"
        under = f"{devices}, {seeds}, torch {versions}; dots are seeds, bars and lines their means"
        title(drawn, f"Emoji of {rows[0]['size']} classes, at equal parameters within a family", under)
    return drawn


def _curves(axes: Axes, found: Rows) -> None:
    used: dict[str, int] = {}
    for name, own in found.items():
        color = color_of(name)
        dash = _DASHES[used.get(color, 0) % len(_DASHES)]
        used[color] = used.get(color, 0) + 1
        axes.plot(*curve(own), linestyle=dash, color=color, linewidth=1.2, label=label_of(name))
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation artist, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), fontsize=7, frameon=False, handlelength=2.2)


def _rows(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0, colors=INK if names[0] else FAINT)
