"""The class funnel of one image as a figure: the scores of the classes at each stage, and which are kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctxvision.explain.funnel import Funnel
from ctxvision.plots.palette import Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.style import new_figure, plain, short, spread

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
            color = ink.of(stage.name)
            axes.scatter(np.full(kept.sum(), index), scores[kept], s=16, color=color, zorder=2)
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
        axes.set_xticks(range(len(places)), [_tick(stage.name, stage.kept) for stage in funnel.stages])
        axes.set_xlim(-0.3, len(places) - 0.2)
        axes.set_ylabel("cosine similarity")
        plain(axes, ink, grid="y")
        axes.legend(
            handles=_keys(ink, what),
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
        caption="Cosine similarity of the image to every class that a stage considered; filled: kept, hollow: "
        "dropped. Lines follow the classes that rank highest at the head. Steps project the image differently, so "
        "heights compare within a step only.",
    )


def _color(c: int, funnel: Funnel, ink: Ink, what: str | None) -> str:
    if what and c == funnel.target:
        return ink.true
    return ink.answer if c == funnel.prediction else ink.soft


def _tick(step: str, kept: Sequence[bool]) -> str:
    return f"{step}\n{len(kept)} → {sum(kept)}"


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
    gap, free = (top - bottom) * 0.075, float("inf")
    for c in sorted(set(classes), key=lambda c: -last[c]):
        free = min(last[c], free - gap)
        color = _color(c, funnel, ink, what)
        axes.text(len(funnel.stages) - 0.88, free, short(names[c], 12), color=color, va="center")


def _keys(ink: Ink, what: str | None) -> list[Line2D]:
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5}
    keys = [
        Line2D([], [], color=ink.stages[3], label="kept", **dot),
        Line2D([], [], markerfacecolor="none", markeredgecolor=ink.soft, label="dropped", **dot),
        Line2D([], [], color=ink.answer, linewidth=1.8, label="answer"),
    ]
    return [*keys, Line2D([], [], color=ink.true, marker="*", markersize=9, label=what)] if what else keys


def _sentence(funnel: Funnel, names: Sequence[str], what: str | None) -> str:
    ranks = []
    for stage in funnel.stages:
        rank = (
            "was dropped before" if stage.true_rank is None else f"ranks {stage.true_rank} of {len(stage.classes)}"
        )
        ranks.append(f"at {stage.name} it {rank}")
    whose = f"{what} {names[funnel.target]}" if what else "the answer"
    return f"Class funnel; answer {names[funnel.prediction]}; {whose}: {', '.join(ranks)}"
