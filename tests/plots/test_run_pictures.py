"""The picture in a run folder: curves."""

import io

import numpy as np
import pytest
from PIL import Image

from ctxvision.plots.curves import _panels, _plot, curve, draw_curves
from ctxvision.plots.palette import PRINTED
from ctxvision.plots.style import new_figure


def opened(png):
    picture = Image.open(io.BytesIO(png))
    picture.load()
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB")).astype(int)


def has_colour(pixels, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(pixels - wanted).max(2) <= 2).any())


def test_every_column_is_drawn_once():
    columns = {"lr": [1.0], "train_loss": [1.0], "val_loss": [2.0], "val_top1": [0.5], "val_top5": [0.75]}
    columns |= {"val_recall_2": [0.9], "val_recall_3": [0.8], "temperature": [0.07], "val_map": [0.3]}
    panels = _panels(columns)
    drawn = [curve for curves in panels.values() for curve in curves.values()]
    assert sorted(map(id, drawn)) == sorted(map(id, columns.values()))
    assert list(panels["Recall of class sets"]) == ["stage 2", "stage 3"]
    assert list(panels["Loss"]) == ["training", "validation"]


@pytest.mark.filterwarnings("error")  # matplotlib warns where panels have no room
def test_many_names_of_one_curve_leave_room_for_the_panels():
    """A detector that finds nothing yet has 0 in every column."""
    names = [f"val_{what}_ap{part}" for what in ("box", "mask") for part in ("", "50", "75", "s")]
    zeros = {name: [0.0] for name in names} | {"val_box_apl": [float("nan")]}  # there are no large objects
    assert opened(draw_curves([1], {"lr": [1.0], "train_loss": [3.0], **zeros})).size


def test_shares_of_nothing_have_no_axis_below_zero():
    figure = new_figure(3.2)
    axes = figure.add_subplot()
    _plot(axes, PRINTED, [1, 2], {"box": [0.0, 0.0]}, percent=True)
    assert -0.01 < axes.get_ylim()[0] < 0 < 0.01 < axes.get_ylim()[1]


def test_curves_with_gaps_are_still_lines():
    """Epochs without validation must not hide the others, also where there are too many for markers."""
    epochs = range(1, 101)
    sparse = [0.5 + e / 400 if e % 5 == 0 else None for e in epochs]
    pixels = opened(draw_curves(epochs, {"val_top1": sparse}))
    assert has_colour(pixels, PRINTED.series[0])
    assert pixels.shape[1] == 1560


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [None, 0.1]])
def test_few_epochs_can_be_drawn(values):
    opened(draw_curves(range(1, len(values) + 1), {"val_top1": values, "lr": [None] * len(values)}))


def test_pictures_are_the_same_every_time():
    columns = {"train_loss": [2.0, 1.0], "lr": [0.1, 0.05]}
    assert draw_curves([1, 2], columns) == draw_curves([1, 2], columns)


def test_equal_curves_are_drawn_once_with_all_their_names_in_the_colours_of_their_stages():
    same, other = [0.5, 0.75], [0.5, 0.7]
    svg = curve({"stage 2": same, "stage 3": same, "stage 4": other}, "recall", "recall")
    assert "stage 2 = stage 3" in svg
    assert svg.count("stroke-dasharray") == 1 + 1  # the second line, and its sample in the legend
    assert "var(--stage-2)" in svg
    assert "var(--stage-4)" in svg
    assert "var(--stage-3)" not in svg  # its curve has the colour of the one that it equals
