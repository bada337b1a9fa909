"""Colours, labels and axes that the figures share."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
INK, FAINT = "#222222", "#777777"
# Okabe and Ito, 2008: told apart with any colour vision, and in grey by the dashes of the peers
COLORS = {
    "rednet50": "#D55E00",
    "cotnet50": "#0072B2",
    "se_cotnetd50": "#009E73",
    "contextual_convnext_tiny": "#CC79A7",
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "ctxvision",
}


def title(figure: Figure, head: str, under: str) -> None:
    """Write the figure's message, and below it where it was measured."""
    height = figure.get_figheight()  # inches: a tall figure has its lines as close as a small one
    figure.text(0.02, 1 - 0.1 / height, head, fontsize=11, weight="bold", color=INK, va="top")
    figure.text(0.02, 1 - 0.36 / height, under, fontsize=7, color=FAINT, va="top")


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Return positions at least ``gap`` apart, in the order of ``values`` and as near to them as runs allow."""
    order = sorted(range(len(values)), key=lambda n: values[n])
    runs: list[list[int]] = []  # neighbours that touch share a centre
    for n in order:
        runs.append([n])
        while len(runs) > 1 and _start(values, runs[-1], gap) - _end(values, runs[-2], gap) < gap:
            runs[-2:] = [runs[-2] + runs[-1]]
    placed = [0.0] * len(values)
    for run in runs:
        for step, n in enumerate(run):
            placed[n] = _start(values, run, gap) + step * gap
    return placed


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], colors: Mapping[str, str]) -> None:
    """Write each line's name to the right of its end, without overlap; ``ends`` in data coordinates."""
    axes.get_xlim(), axes.get_ylim()  # asked for, the limits are settled and the transform is final
    to_points = axes.transData.transform
    heights = [to_points(end)[1] for end in ends.values()]
    gap = 11.5 * axes.figure.dpi / 72
    for (name, end), height in zip(ends.items(), spread(heights, gap), strict=True):
        y = to_points(end)[1]
        axes.annotate(
            name, end, (8, (height - y) * 72 / axes.figure.dpi), textcoords="offset points", va="center",
            fontsize=8, color=colors[name], annotation_clip=False,
        )  # fmt: skip


def label_points(
    axes: Axes, points: Mapping[str, tuple[float, float]], texts: Mapping[str, str], colors: Mapping[str, str]
) -> None:
    """Write a text at each point, on the first side where it covers no marker and no other text."""
    axes.get_xlim(), axes.get_ylim()
    scale, height = axes.figure.dpi / 72, 11.0
    centres = {name: axes.transData.transform(point) / scale for name, point in points.items()}
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres.values()]
    for name, (x, y) in centres.items():
        width = 4.7 * len(texts[name])
        sides = [
            (0, 11),
            (9 + width / 2, 0),
            (0, -11),
            (-9 - width / 2, 0),
            (9 + width / 2, 8),
            (-9 - width / 2, -8),
        ]

        def box(side: tuple[float, float], x: float = x, y: float = y, width: float = width) -> Box:
            return (
                x + side[0] - width / 2,
                y + side[1] - height / 2,
                x + side[0] + width / 2,
                y + side[1] + height / 2,
            )

        free = (side for side in sides if not any(_overlap(box(side), other) for other in taken))
        side = next(free, sides[0])
        taken.append(box(side))
        axes.annotate(
            texts[name], points[name], side, textcoords="offset points", ha="center", va="center", fontsize=8,
            color=colors[name],
        )  # fmt: skip


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _start(values: Sequence[float], run: Sequence[int], gap: float) -> float:
    return sum(values[n] for n in run) / len(run) - gap * (len(run) - 1) / 2


def _end(values: Sequence[float], run: Sequence[int], gap: float) -> float:
    return _start(values, run, gap) + gap * (len(run) - 1)
