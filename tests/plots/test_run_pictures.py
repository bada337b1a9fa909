"""Pictures for a run folder: curves, confusion matrix, contact sheet."""

import base64
import csv
import io

import numpy as np
import pytest
from ctxvision.plots.confusion import confusion_table, draw_confusion, most_confused
from ctxvision.plots.worst_sheet import _SIDE, draw_worst
from PIL import Image

from ctxvision.plots.curves import _panels, draw_curves
from ctxvision.plots.palette import PRINTED


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


def test_most_confused_classes_of_many():
    confusion = np.diag(np.full(1000, 50))
    confusion[3, 700], confusion[999, 0], confusion[5, 6] = 30, 20, 1
    names = [f"class {i}" for i in range(1000)]
    assert most_confused(confusion, names, 4) == [0, 3, 700, 999]
    assert {0, 3, 5, 6, 700, 999} <= set(most_confused(confusion, names, 16))
    assert len(most_confused(np.diag(np.full(40, 1)), names[:40], 16)) == 16


@pytest.mark.parametrize("classes", [2, 12, 25, 400])
def test_confusion_can_be_drawn(classes):
    confusion = np.random.default_rng(0).integers(0, 9, (classes, classes))
    confusion[0] = 0  # a class without images
    pixels = opened(draw_confusion(confusion, [f"a rather $long_name$ {i}" for i in range(classes)]))
    assert pixels.shape[1] == 1000


def test_confusion_matrix_shows_where_the_images_are():
    dark = []
    for place in ((0, 1), (1, 0)):
        confusion = np.zeros((2, 2), int)
        confusion[place] = 40
        pixels = opened(draw_confusion(confusion, ["a", "b"]))
        ys, xs = np.nonzero(abs(pixels - (8, 48, 107)).max(2) <= 2)  # darkest of the scale
        inside = xs < 700  # not of the colour bar
        dark.append((np.median(ys[inside]), np.median(xs[inside])))
    (top, right), (bottom, left) = dark
    assert top < bottom
    assert left < right


def test_confusion_table_holds_every_count():
    confusion, names = np.arange(9).reshape(3, 3), ["a,b", 'c"d', "e"]
    rows = list(csv.reader(io.StringIO(confusion_table(confusion, names))))
    assert rows[0][1:] == names
    assert [row[0] for row in rows[1:]] == names
    assert [[int(n) for n in row[1:]] for row in rows[1:]] == confusion.tolist()


def test_contact_sheet_has_every_image_in_its_place():
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 0), (0, 120, 120)]
    pictures, worst = {}, []
    for position, colour in enumerate(colours):
        file = io.BytesIO()
        Image.new("RGB", (20, 10), colour).save(file, "PNG")
        pictures[position] = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        names = {"truth": "a name too long for its place in the sheet", "prediction": "b\nc"}
        worst.append(names | {"position": position, "right": False, "loss": 9.0 - position})
    pixels = opened(draw_worst(worst, pictures))
    centres = []
    for colour in colours:
        ys, xs = np.nonzero((pixels == colour).all(2))
        assert len(ys) >= _SIDE * _SIDE // 2 * 0.98
        centres.append((round(ys.mean()), round(xs.mean())))
    assert len({y for y, _ in centres[:4]}) == 1
    assert [x for _, x in centres[:4]] == sorted(x for _, x in centres[:4])
    assert centres[4][0] > centres[0][0]
    assert centres[4][1] == centres[0][1]


def test_no_images_no_mistake():
    opened(draw_worst([], {}))
