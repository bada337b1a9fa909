"""Boxes and masks on images."""

import numpy as np
import pytest
from PIL import Image

from ctxvision.data.detection.coco_values import encode_masks
from ctxvision.data.embedded.scenes import make_scene
from ctxvision.plots.boxes import _ink, _meet, draw_boxes
from ctxvision.plots.palette import OKABE_ITO


def objects_of(scene):
    codes = encode_masks(scene.masks)
    for label, (x0, y0, x1, y1), code in zip(scene.labels, scene.boxes.tolist(), codes, strict=True):
        bbox = [x0, y0, x1 - x0, y1 - y0]
        yield {"class": str(label), "label": int(label) + 1, "bbox": bbox, "segmentation": code, "score": 0.5}


def drawn_on(picture, objects):
    boxes, labels, names, scores = ([o[key] for o in objects] for key in ("bbox", "label", "class", "score"))
    masks = [o["segmentation"] for o in objects if "segmentation" in o]
    return draw_boxes(picture, boxes, labels, names, scores=scores, masks=masks or None)


def test_drawing_marks_boxes_and_masks_and_leaves_the_rest():
    scene = make_scene(0, 1, 96)
    picture = Image.fromarray(scene.image)
    drawn = drawn_on(picture, list(objects_of(scene)))
    assert drawn.size == (384, 384)
    assert np.array_equal(np.asarray(picture), scene.image)
    plain = np.asarray(drawn_on(picture, []))
    assert np.array_equal(plain[::4, ::4], scene.image)
    changed = (np.asarray(drawn) != plain).any(-1)
    for mask in scene.masks:
        assert changed[::4, ::4][mask].all()
    away = np.ones((96, 96), dtype=bool)
    for x0, y0, x1, y1 in scene.boxes.astype(int):
        away[max(y0 - 10, 0) : y1 + 10, max(x0 - 20, 0) : x1 + 20] = False
    assert away.any()
    assert not changed[::4, ::4][away].any()


def test_labels_do_not_hide_each_other(monkeypatch):
    from PIL import ImageDraw

    filled = []
    original = ImageDraw.ImageDraw.rectangle

    def note(self, box, fill=None, **options):
        if fill:
            filled.append(box)
        original(self, box, fill=fill, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", note)
    box = {"class": "zebra", "label": 1, "score": 0.9, "bbox": [100.0, 100.0, 80.0, 60.0]}
    drawn_on(
        Image.new("RGB", (400, 400)),
        [box, box | {"bbox": [102.0, 101.0, 80.0, 60.0]}, box | {"bbox": [0, 0, 9, 9]}],
    )
    assert len(filled) == 3
    assert not any(_meet(a, b) for i, a in enumerate(filled) for b in filled[:i])
    assert all(0 <= x0 <= x1 <= 400 and 0 <= y0 <= y1 <= 400 for x0, y0, x1, y1 in filled)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (700, 2)])
def test_any_size_can_be_drawn_on(size):
    box = {"class": "a very long name of a class", "label": 9, "score": 1.0, "bbox": [0.0, 0.0, 1.0, 1.0]}
    assert drawn_on(Image.new("L", size), [box]).mode == "RGB"


def test_labels_are_readable_on_every_colour():
    """WCAG 2 asks for a contrast of 4.5."""

    def luminance(colour):
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return linear[0] * 0.2126 + linear[1] * 0.7152 + linear[2] * 0.0722

    for colour in OKABE_ITO:
        ink = {"black": 0.0, "white": 1.0}[_ink(colour)]
        high, low = sorted([ink, luminance(colour)], reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5
