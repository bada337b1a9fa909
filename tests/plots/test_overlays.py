"""Pictures of classes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision.plots.overlays import class_map, colorize, overlay, with_legend

COLORS = [(70, 70, 70), (255, 0, 0), (0, 0, 255)]
CLASSES = np.array([[0, 1, 2, 255], [1, 1, 1, 0]])


def test_every_pixel_gets_the_colour_of_its_class():
    painted = colorize(torch.from_numpy(CLASSES), COLORS)
    expected = [[[70, 70, 70], [255, 0, 0], [0, 0, 255], [0, 0, 0]], [[255, 0, 0]] * 3 + [[70, 70, 70]]]
    assert painted.tolist() == expected
    with pytest.raises(ValueError, match="class 3 has no colour; there are 3"):
        colorize([[3]], COLORS)
    with pytest.raises(ValueError, match="class -1"):
        colorize([[-1]], COLORS)


def test_overlay_blends_with_the_image():
    image = Image.new("L", (4, 2), 200)
    assert np.asarray(overlay(image, CLASSES, COLORS, 1.0)).tolist() == colorize(CLASSES, COLORS).tolist()
    assert (np.asarray(overlay(image, CLASSES, COLORS, 0.0)) == 200).all()
    half = np.asarray(overlay(image, CLASSES, COLORS, 0.5)).astype(int)
    assert np.abs(half - (200 + colorize(CLASSES, COLORS).astype(int)) / 2).max() <= 1
    with pytest.raises(ValueError, match=r"the classes are \(4, 2\), the image is \(2, 4\)"):
        overlay(Image.new("RGB", (2, 4)), CLASSES, COLORS)
    red = np.asarray(overlay(Image.new("RGB", (4, 2), "red"), CLASSES, COLORS, 0.0))
    assert (red == red[..., :1]).all()  # in grey, so that the colours are those of the legend


def test_class_map_is_a_mask_and_a_picture():
    file = io.BytesIO()
    class_map(CLASSES, COLORS).save(file, "PNG")
    again = Image.open(file)
    assert again.mode == "P"
    assert np.array_equal(np.asarray(again), CLASSES)
    assert np.array_equal(np.asarray(again.convert("RGB")), colorize(CLASSES, COLORS))


def test_legend_names_what_occurs_in_its_colour():
    picture = overlay(Image.new("RGB", (4, 2)), CLASSES, COLORS)
    legend = with_legend(picture, CLASSES, ("sky", "ground", "tree"), COLORS)
    assert legend.width > 40
    assert np.array_equal(np.asarray(legend)[:2, :4], np.asarray(picture))
    # ground is more frequent than sky, which is more frequent than tree
    swatches = [legend.getpixel((4 + 6 + 6, 6 + 6 + 18 * row)) for row in range(3)]
    assert swatches == [(255, 0, 0), (70, 70, 70), (0, 0, 255)]
    only = with_legend(picture, np.ones((2, 4), int), ("sky", "ground", "tree"), COLORS)
    assert only.height < legend.height
