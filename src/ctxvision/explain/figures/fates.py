"""Figures of the true classes of a data set: how many survive, and to which classes others are lost."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctxvision.explain.classes import Fates
from ctxvision.plots.palette import SHARES, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.style import FEW, bare, color_bar, new_figure, plain, short


def recall_picture(fates: Fates, name: str = "recall") -> Picture:
    """Draw the share of the images whose true class was kept up to each step."""
    recall = fates.recall()

    def draw(ink: Ink) -> Figure:
        figure = new_figure(2.6)
        axes = figure.add_subplot()
        colors = [ink.of(step) for step in fates.steps]
        axes.bar(range(len(recall)), recall * 100, color=colors, width=0.62)
        for index, share in enumerate(recall):
            axes.text(index, share * 100 + 1.5, f"{share:.1%}", ha="center", color=ink.text)
        sizes = zip(fates.steps, fates.scored, fates.kept, strict=True)
        axes.set_xticks(range(len(recall)), [f"{step}\n{scored} → {kept}" for step, scored, kept in sizes])
        axes.set_ylim(0, 110)
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylabel("true class kept, % of images")
        plain(axes, ink, grid="y")
        return figure

    shares = ", ".join(f"{step} {share:.1%}" for step, share in zip(fates.steps, recall, strict=True))
    return make_picture(
        draw,
        name,
        title="How often the true class survives",
        alt=f"Share of true classes kept: {shares}",
        what=f"The share of {len(fates.targets):,} images whose true class was still kept after each stage; the "
        "bar of the head is the accuracy.",
        how="A bar can never be higher than the one to its left, because a class that was dropped does not come "
        "back; the largest step down is where most answers are lost.",
    )


def lost_picture(fates: Fates, names: Sequence[str], name: str = "lost") -> Picture:
    """Draw at which step the true class of images was lost, by class; of many classes, those with most losses."""
    counts = fates.lost_by_class()
    order = shown_classes(counts)
    shares = counts[order] / np.maximum(counts[order].sum(1, keepdims=True), 1)
    columns = [*fates.steps, "right"]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(0.95 + 0.2 * len(order))
        axes = figure.add_subplot()
        _show_counts(axes, ink, counts[order], shares)
        axes.set_xticks(range(len(columns)), [f"lost at\n{c}" if c != "right" else "right" for c in columns])
        axes.set_yticks(range(len(order)), [short(names[c], 16) for c in order])
        color_bar(figure, axes, ink, SHARES, 0, 1, "share of the images of the class")
        return figure

    lost = counts[:, :-1].sum(0)
    words = ", ".join(f"{n} at {step}" for n, step in zip(lost, fates.steps, strict=True))
    some = "" if len(order) == np.count_nonzero(counts.sum(1)) else f" The {len(order)} classes that lose most."
    return make_picture(
        draw,
        name,
        pixels=True,
        title="Where the true class is lost",
        alt=f"Images whose true class was lost: {words}",
        what=f"How many images of each class lost their true class at each stage.{some}",
        how="One row per class; a number under “right” was answered correctly, and a number under a stage means "
        "that this stage dropped the true class.",
    )


def shown_classes(counts: np.ndarray, limit: int = FEW) -> list[int]:
    """Choose rows of counts (C, S + 1) to show: all that have images, or those that lose the largest share."""
    present = np.flatnonzero(counts.sum(1))
    if len(present) <= limit:
        return present.tolist()
    shares = counts[present, :-1].sum(1) / counts[present].sum(1)
    return sorted(present[np.argsort(-shares, kind="stable")[:limit]].tolist())


def lost_to_picture(fates: Fates, names: Sequence[str], name: str = "lost_to") -> Picture | None:
    """Draw to which class each true class was lost; ``None`` if none was lost or there are too many to draw."""
    pairs = fates.lost_to()
    rows = sorted({true for true, *_ in pairs})
    columns = sorted({winner for _, _, winner, _ in pairs})
    if not pairs or max(len(rows), len(columns)) > FEW:
        return None
    cells = np.zeros((len(rows), len(columns)), int)
    for true, _, winner, count in pairs:
        cells[rows.index(true), columns.index(winner)] += count

    def draw(ink: Ink) -> Figure:
        figure = new_figure(1.4 + 0.22 * len(rows))
        axes = figure.add_subplot()
        _show_counts(axes, ink, cells, cells / cells.max())
        labels = [short(names[c], 12) for c in columns]
        upright = max(map(len, labels)) * len(labels) > 45
        axes.set_xticks(range(len(columns)), labels, rotation=90 if upright else 0)
        axes.set_yticks(range(len(rows)), [short(names[c], 16) for c in rows])
        axes.set_xlabel("class in first place where the true one was lost", color=ink.text)
        return figure

    most = pairs[0]
    return make_picture(
        draw,
        name,
        pixels=True,
        title="To whom it is lost",
        alt=f"True class against the class it was lost to; most often {names[most[0]]} to {names[most[2]]}",
        what="Which class scored highest at the moment when the true class was dropped.",
        how="One row per true class, one column per class that won; the larger the number, the more often the two "
        "were taken for each other.",
    )


def _show_counts(axes: Axes, ink: Ink, counts: np.ndarray, shares: np.ndarray) -> None:
    """Draw shares as a heat map with the numbers in the cells, light on dark and dark on light."""
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        light = sum(colormaps[SHARES](shares[row, column])[:3]) > 1.5
        color = "#000000" if light else "#ffffff"
        axes.text(column, row, str(count) if count else "·", ha="center", va="center", color=color)
    bare(axes, ink)
    axes.tick_params(length=0, labelcolor=ink.text)
    axes.set_ylabel("true class", color=ink.text)
