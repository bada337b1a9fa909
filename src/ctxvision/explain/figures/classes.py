"""Figures of classes: the class funnel of an image, class embeddings on a plane, and their similarities."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctxvision.explain.classes import Funnel
from ctxvision.plots.palette import SIGNED, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.style import FEW, WIDTH, bare, color_bar, decimal, new_figure, plain, short, spread

_NAMED = 5  # classes with names at the head


def funnel_picture(funnel: Funnel, names: Sequence[str], name: str, *, what: str | None) -> Picture:
    """Draw the scores of all classes at all steps; the classes that reach the head are joined by lines.

    Args:
        funnel: The funnel of one image.
        names: The names of the C classes.
        name: The name of the picture.
        what: The role of ``funnel.target``, e.g. ``"true class"``; ``None`` if it is only the answer.
    """
    reached = funnel.stages[-1].classes

    def draw(ink: Ink) -> Figure:
        figure = new_figure(3.6)
        axes = figure.add_subplot()
        places = [dict(zip(stage.classes, stage.scores, strict=True)) for stage in funnel.stages]
        for index, stage in enumerate(funnel.stages):
            kept = np.array(stage.kept)
            scores = np.array(stage.scores)
            dropped = scores[~kept][spread(int((~kept).sum()))] if not kept.all() else scores[:0]
            axes.scatter(
                np.full(len(dropped), index),
                dropped,
                s=14,
                facecolors="none",
                edgecolors=ink.soft,
                linewidths=0.8,
                zorder=2,
            )
            axes.scatter(np.full(kept.sum(), index), scores[kept], s=16, color=ink.text, zorder=2)
        followed = [*reached[:_NAMED], funnel.target]
        for c in dict.fromkeys(followed):
            line = [(i, place[c]) for i, place in enumerate(places) if c in place]
            color = _color(c, funnel, ink, what)
            bold = c in (funnel.target, funnel.prediction)
            x, y = zip(*line, strict=True)
            axes.plot(x, y, color=color, linewidth=1.8 if bold else 0.7, zorder=3 if bold else 1)
        if what and funnel.target in places[0]:
            line = [(i, place[funnel.target]) for i, place in enumerate(places) if funnel.target in place]
            x, y = zip(*line, strict=True)
            axes.scatter(x, y, marker="*", s=110, color=ink.true, edgecolors=ink.page, zorder=4)
            if funnel.target not in places[-1]:
                axes.annotate(
                    short(names[funnel.target], 14),
                    line[-1],
                    (8, 0),
                    textcoords="offset points",
                    color=ink.true,
                    va="center",
                )
        _label_ends(axes, places[-1], followed[:-1], names, funnel, ink, what)
        axes.set_xticks(range(len(places)), [f"{s.name}\n{len(s.kept)} → {sum(s.kept)}" for s in funnel.stages])
        axes.set_xlim(-0.3, len(places) - 0.2)
        axes.set_ylabel("cosine similarity")
        plain(axes, ink, grid="y")
        axes.legend(
            handles=_keys(ink, what, answer={"color": ink.answer, "linewidth": 1.8}),
            frameon=False,
            labelcolor=ink.text,
            loc="upper center",
            bbox_to_anchor=(0.45, -0.2),
            ncols=4,
            handletextpad=0.3,
            columnspacing=1,
        )
        return figure

    return make_picture(
        draw,
        name,
        title="The classes that each stage kept",
        alt=_sentence(funnel, names, what),
        what="How similar the image is to each class that a stage still considered, and which classes it kept.",
        how="From left to right filled dots are kept for the next stage and hollow dots are dropped; compare "
        "heights within one stage only, because each stage measures with its own scale.",
    )


def _color(c: int, funnel: Funnel, ink: Ink, what: str | None) -> str:
    if what and c == funnel.target:
        return ink.true
    return ink.answer if c == funnel.prediction else ink.soft


def _label_ends(
    axes: Axes,
    last: dict[int, float],
    classes: Sequence[int],
    names: Sequence[str],
    funnel: Funnel,
    ink: Ink,
    what: str | None,
) -> None:
    """Write the names of classes beside the head, moved apart where they would touch."""
    bottom, top = axes.get_ylim()
    ordered = sorted(set(classes), key=lambda c: -last[c])
    heights = moved_apart([last[c] for c in ordered], (top - bottom) * 0.075)
    for c, height in zip(ordered, heights, strict=True):
        color = _color(c, funnel, ink, what)
        axes.text(len(funnel.stages) - 0.88, height, short(names[c], 12), color=color, va="center")


def moved_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights, highest first, apart by a gap at least, all of them together as little as possible.

    Examples:
        >>> moved_apart([5.0, 1.0, 1.0], 1.0)
        [5.0, 1.5, 0.5]
    """
    runs: list[list[float]] = []  # what touches moves as one, around its mean (isotonic regression)
    for place, height in enumerate(heights):
        runs.append([height + place * gap])
        while len(runs) > 1 and fmean(runs[-1]) > fmean(runs[-2]):
            runs[-2:] = [runs[-2] + runs[-1]]
    return [fmean(run) - place * gap for place, run in enumerate(run for run in runs for _ in run)]


def _keys(
    ink: Ink, what: str | None, *, answer: dict[str, Any], linestyle: Literal["-", "none"] = "-"
) -> list[Line2D]:
    """Return the entries of a legend; ``answer`` is the style of the answer, ``linestyle`` that of ``what``."""
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5}
    keys = [
        Line2D([], [], color=ink.text, label="kept", **dot),
        Line2D([], [], markerfacecolor="none", markeredgecolor=ink.soft, label="dropped", **dot),
        Line2D([], [], label="answer", **answer),
    ]
    if what:
        keys.append(Line2D([], [], color=ink.true, marker="*", linestyle=linestyle, markersize=9, label=what))
    return keys


def _sentence(funnel: Funnel, names: Sequence[str], what: str | None) -> str:
    ranks = []
    for stage in funnel.stages:
        rank = (
            "was dropped before" if stage.true_rank is None else f"ranks {stage.true_rank} of {len(stage.classes)}"
        )
        ranks.append(f"at {stage.name} it {rank}")
    whose = f"{what} {names[funnel.target]}" if what else "the answer"
    return f"Class funnel; answer {names[funnel.prediction]}; {whose}: {', '.join(ranks)}"


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
            axes.scatter(*plane[kept].T, s=size, color=ink.text)
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
        square: dict[str, Any] = {"marker": "s", "linestyle": "none", "markersize": 8, "markerfacecolor": "none"}
        keys = _keys(ink, what, linestyle="none", answer=square | {"markeredgecolor": ink.answer})
        figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False, labelcolor=ink.text)
        return figure

    counts = ", ".join(f"{stage.name} keeps {sum(stage.kept)} of {len(stage.classes)}" for stage in funnel.stages)
    return make_picture(
        draw,
        name,
        title="Where the kept classes lie",
        alt=f"t-SNE of {len(plane)} class embeddings, kept classes marked: {counts}; answer "
        f"{names[funnel.prediction]}" + (f", {what} {names[funnel.target]}" if what else ""),
        what="All classes as points on a map (t-SNE of the class embeddings), and which of them each stage kept.",
        how="Points that lie close together are classes that the network finds similar; the axes have no unit, "
        "and a good funnel keeps one neighbourhood.",
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
            place.imshow(cosines, cmap=SIGNED, vmin=-1, vmax=1)
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
        what="How similar each pair of classes is to the network: the cosine of their class embeddings, or of the "
        "rows of the last layer of a network without them.",
        how="White pairs are unrelated, violet ones alike, and brown ones opposite; the paler everything off the "
        "diagonal, the better the classes are told apart (“mean” leaves the diagonal out).",
    )


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Return the entries of a square matrix (C, C) off its diagonal, (C · (C − 1),)."""
    return matrix[~np.eye(len(matrix), dtype=bool)]
