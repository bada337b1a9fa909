"""Figures of class embeddings: the classes on a plane, and the similarities of all pairs of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctxvision.explain.funnel import Funnel
from ctxvision.plots.palette import SIGNED, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.style import FEW, WIDTH, bare, color_bar, decimal, new_figure, short, spread


def plane_picture(
    plane: np.ndarray, funnel: Funnel, names: Sequence[str], name: str, *, what: str | None
) -> Picture:
    """Mark the classes that each step kept on the t-SNE plane of the class embeddings (paper, Fig. 5 left).

    Args:
        plane: The places of the C classes on a plane, (C, 2), as `on_a_plane` returns them.
        funnel: The funnel of one image.
        names: The names of the C classes.
        name: The name of the picture.
        what: The role of ``funnel.target``, e.g. ``"true class"``; ``None`` if it is only the answer.
    """
    low, high = plane.min(0), plane.max(0)
    margin = 0.12 * np.maximum(high - low, 1e-3)

    def draw(ink: Ink) -> Figure:
        figure = new_figure(WIDTH * 0.95)
        for axes, stage in zip(figure.subplots(2, 2).flat, funnel.stages, strict=False):
            kept = [c for c, keep in zip(stage.classes, stage.kept, strict=True) if keep]
            size = 22 if len(plane) <= 100 else 6
            few = spread(len(plane))
            axes.scatter(*plane[few].T, s=size, facecolors="none", edgecolors=ink.soft, linewidths=0.6)
            axes.scatter(*plane[kept].T, s=size, color=ink.of(stage.name))
            if what:
                axes.scatter(
                    *plane[funnel.target], s=120, marker="*", color=ink.true, edgecolors=ink.page, zorder=3
                )
            axes.scatter(
                *plane[funnel.prediction],
                s=90,
                marker="s",
                facecolors="none",
                edgecolors=ink.answer,
                linewidths=1.4,
            )
            if len(plane) <= FEW:
                for c, (x, y) in enumerate(plane):
                    axes.annotate(
                        short(names[c], 9),
                        (x, y),
                        (6, 5) if c == funnel.prediction else (3, 3),
                        textcoords="offset points",
                        fontsize=8,
                        color=ink.text if c in kept else ink.soft,
                    )
            axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
            bare(axes, ink, f"{stage.name}: {len(stage.classes)} → {len(kept)}")
        dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5}
        keys = [
            Line2D([], [], color=ink.stages[3], label="kept", **dot),
            Line2D([], [], markerfacecolor="none", markeredgecolor=ink.soft, label="dropped", **dot),
            Line2D(
                [],
                [],
                marker="s",
                linestyle="none",
                markerfacecolor="none",
                markeredgecolor=ink.answer,
                markersize=8,
                label="answer",
            ),
        ]
        if what:
            keys.append(Line2D([], [], color=ink.true, marker="*", linestyle="none", markersize=9, label=what))
        figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False, labelcolor=ink.text)
        return figure

    counts = ", ".join(f"{stage.name} keeps {sum(stage.kept)} of {len(stage.classes)}" for stage in funnel.stages)
    return make_picture(
        draw,
        name,
        title="Where the kept classes lie",
        alt=f"t-SNE of {len(plane)} class embeddings, kept classes marked: {counts}; answer "
        f"{names[funnel.prediction]}" + (f", {what} {names[funnel.target]}" if what else ""),
        caption="t-SNE of the class embeddings: neighbours are similar classes, the axes have no unit.",
    )


def similarity_picture(
    matrices: Sequence[tuple[str, np.ndarray]], names: Sequence[str], name: str = "similarity"
) -> Picture:
    """Draw the cosines of all pairs of classes, for one network or for two (paper, Fig. 5 right).

    Args:
        matrices: Pairs, one for each network, of its name and the cosine similarities of its classes, (C, C) from
            −1 to 1.
        names: The names of the C classes.
        name: The name of the picture.
    """

    def draw(ink: Ink) -> Figure:
        columns = len(matrices)
        figure = new_figure(WIDTH / max(columns, 1.35) + 1.15)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        for place, (network, cosines) in zip(axes, matrices, strict=True):
            place.imshow(cosines, cmap=SIGNED, vmin=-1, vmax=1, interpolation="none")
            bare(place, ink, f"{short(network, 26)}\nmean {decimal(off_diagonal(cosines).mean())}")
            if len(names) <= FEW:
                labels = [short(n, 9) for n in names]
                upright = max(map(len, labels)) > 2
                place.set_xticks(range(len(names)), labels, rotation=90 if upright else 0, fontsize=8)
                place.set_yticks(range(len(names)), labels, fontsize=8)
                place.tick_params(length=0, labelcolor=ink.text)
            else:
                place.set_xlabel(f"class 1 to {len(names)}", color=ink.text)
        color_bar(figure, axes, ink, SIGNED, -1, 1, "cosine similarity of two classes")
        return figure

    means = "; ".join(f"{network}: mean {decimal(off_diagonal(cosines).mean())}" for network, cosines in matrices)
    return make_picture(
        draw,
        name,
        pixels=True,
        title="How similar the classes are to the network",
        alt=f"Cosine similarity of every pair of {len(names)} classes; {means}",
        caption="Cosines of the class embeddings; of a plain network, of the rows of its classifier. The lower "
        "off the diagonal, the better the classes are apart. “Mean” leaves the diagonal out.",
    )


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Return the entries of a square matrix (C, C) off its diagonal, (C · (C − 1),)."""
    return matrix[~np.eye(len(matrix), dtype=bool)]
