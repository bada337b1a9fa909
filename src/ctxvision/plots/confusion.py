"""A confusion matrix as PNG and CSV; of many classes the picture shows those that are most confused."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text

from ctxvision.evaluation.by_class import confused_pairs
from ctxvision.foreign import csv_text, visible

from .fonts import families, say_what_is_missing

WIDTH, DOTS = 4.0, 250
FONT = {"font.size": 8, "axes.titlesize": 9, "axes.labelsize": 8, "text.parse_math": False}
_ALL, _SOME = 25, 16  # up to so many classes all are shown, of more only so many
_COUNTS = 12  # classes, up to which every cell has its number
_NAME = 14  # letters


def draw_confusion(confusion: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw a confusion matrix as a PNG: rows are true classes, the colour is the share of the row.

    Args:
        confusion: (classes, classes), numbers of images.
        names: one per class.
    """
    shown = list(range(len(names))) if len(names) <= _ALL else most_confused(confusion, names, _SOME)
    images = confusion.sum(1)
    cells = confusion[np.ix_(shown, shown)]
    shares = cells / np.maximum(images[shown], 1)[:, None]
    labels = [_short(names[i]) for i in shown]
    long = max(map(len, labels)) > 3
    options: Any = FONT | {"font.family": families(), "font.size": 8 if len(shown) <= 16 else 6}
    with rc_context(options):
        figure = Figure(figsize=(WIDTH, 3.9 if long else 3.3), dpi=DOTS, layout="constrained")
        axes = figure.add_subplot()
        # the root of the share, so that single mistakes still show
        mesh = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
        axes.set_xticks(range(len(shown)), labels, rotation=90 if long else 0)
        axes.set_yticks(range(len(shown)), labels)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if len(shown) < len(names):
            inside = int(cells.sum() - np.trace(cells))
            mistakes = int(confusion.sum() - np.trace(confusion))
            figure.suptitle(f"{len(shown)} of {len(names)} classes, {inside} of {mistakes} mistakes", fontsize=8)
        if len(shown) <= _COUNTS:
            for row, column in zip(*cells.nonzero(), strict=True):
                colour = "white" if shares[row, column] > 0.4 else "black"
                axes.text(column, row, str(cells[row, column]), ha="center", va="center", color=colour)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.75, pad=0.02)
        bar.set_label("share of the true class’s images")
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1])
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
        return _as_png(figure)


def most_confused(confusion: np.ndarray, names: Sequence[str], count: int) -> list[int]:
    """Choose the classes of the most frequent mistakes, in their order; classes with images fill up the rest."""
    place = {name: index for index, name in enumerate(names)}
    chosen: list[int] = []
    for pair in confused_pairs(confusion, names):
        both = [i for i in (place[pair["truth"]], place[pair["prediction"]]) if i not in chosen]
        if len(chosen) + len(both) <= count:
            chosen += both
        if len(chosen) == count:
            break
    for index in np.argsort(-confusion.sum(1), kind="stable").tolist():
        if len(chosen) < count and index not in chosen:
            chosen.append(index)
    return sorted(chosen)


def confusion_table(confusion: np.ndarray, names: Sequence[str]) -> str:
    """Write a confusion matrix as CSV: a header of predicted classes, a row for each true class."""
    rows = ([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
    return csv_text([["true \\ predicted", *names], *rows], line_end="\r\n")


def _short(name: str) -> str:
    name = visible(name)
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _as_png(figure: Figure) -> bytes:
    say_what_is_missing(text.get_text() for text in figure.findobj(Text))
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
