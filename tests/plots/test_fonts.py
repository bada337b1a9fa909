"""Class names in scripts that the default font lacks."""

import logging

import numpy as np
import pytest
from PIL import Image

from ctxvision.plots import fonts
from ctxvision.plots.boxes import draw_boxes
from ctxvision.plots.picture import make_picture
from ctxvision.plots.style import new_figure

MATHEMATICAL = "STIXGeneral"  # comes with matplotlib too, and has letters that DejaVu Sans lacks
SCRIPT = "ℊ"  # one of them


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(fonts, "_said", set())
    monkeypatch.setattr(fonts, "OTHERS", ())


def test_default_font_where_it_has_all(caplog):
    assert fonts.families() == ["DejaVu Sans"]
    assert fonts.font_for("Straße, кошка, γάτα, ✓", 12).getname()[0] == "DejaVu Sans"
    assert not caplog.records


def test_installed_font_where_the_default_lacks_a_character(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "OTHERS", ("No such font", MATHEMATICAL))
    assert fonts.families() == ["DejaVu Sans", MATHEMATICAL]
    assert fonts.font_for(f"cat {SCRIPT}\n", 12).getname()[0] == "STIXGeneral"
    assert fonts.font_for("cat", 12).getname()[0] == "DejaVu Sans"
    assert not caplog.records


def test_missing_characters_are_said_once(caplog):
    with caplog.at_level(logging.WARNING, "ctxvision"):
        fonts.font_for("犬 dog", 12)
        fonts.font_for("犬", 12)
        fonts.say_what_is_missing(["猫", "犬"])
    first, second = (record.getMessage() for record in caplog.records)
    assert "for 犬:" in first
    assert "for 猫:" in second


def drawn(name):
    """A picture of each kind that carries a class name."""

    def figure(ink):
        figure = new_figure(1)
        figure.suptitle(name)
        return figure

    picture = make_picture(figure, "test", title="", what="", how="", alt="", pixels=True)
    boxes = draw_boxes(Image.new("RGB", (64, 64)), [[9, 30, 40, 20]], [1], [name], scores=[0.5])
    return picture.data, np.asarray(boxes).tobytes()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_pictures_use_the_font_that_has_the_name(monkeypatch):
    without = drawn(SCRIPT)
    monkeypatch.setattr(fonts, "OTHERS", (MATHEMATICAL,))
    with_font = drawn(SCRIPT)
    for boxes, letters in zip(without, with_font, strict=True):
        assert boxes != letters
    assert drawn("plain") == drawn("plain")
