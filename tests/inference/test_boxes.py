"""What a detector finds, as data and as pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision.data import DetectionData
from ctxvision.data.detection.coco_masks import encode_masks
from ctxvision.data.detection.scenes import export_coco
from ctxvision.data.embedded.scenes import make_scene
from ctxvision.inference import predictor_of
from ctxvision.plots.boxes import _ink, _meet, draw_boxes
from ctxvision.plots.palette import OKABE_ITO
from ctxvision.tasks.detection import DetectionTask


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    spec = DetectionData("digits-scenes#train=1,val=1,size=64").spec
    options = {"width": 16, "hidden": 16, "norm": "batch", "test_proposals": 20, "min_size": 64, "max_size": 96}
    sizes = {"anchor_sizes": (12, 20, 32, 48, 80), "score_threshold": 0.0, "detections": 5}
    return DetectionTask("rednet_micro", spec.to_dict(), detector="mask_rcnn", **options, **sizes).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    export_coco(root, train=2, val=4, size=64)
    return root


def test_detect_returns_what_the_network_finds(task, files):
    paths = sorted((files / "val").glob("*.png"))
    found = list(predictor_of(task)(paths, threshold=0.0, batch_size=3))
    assert [d.path for d in found] == [str(path) for path in paths]
    for detections, path in zip(found, paths, strict=True):
        image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            (expected,) = task([image])
        assert [o.label for o in detections.objects] == expected["labels"].tolist()
        corners = [(b[0], b[1], b[0] + b[2], b[1] + b[3]) for b in (o.bbox for o in detections.objects)]
        torch.testing.assert_close(torch.tensor(corners), expected["boxes"], rtol=1e-4, atol=1e-3)
        assert all(o.name == str(o.label - 1) for o in detections.objects)
        assert (detections.width, detections.height) == (64, 64)
    json.dumps([d.to_dict() for d in found], allow_nan=False)


def test_threshold_leaves_uncertain_objects_out(task, files):
    (everything,) = predictor_of(task)(files / "val" / "000000.png", threshold=0.0)
    scores = [o.score for o in everything.objects]
    assert scores == sorted(scores, reverse=True)
    (certain,) = predictor_of(task)(files / "val" / "000000.png", threshold=scores[2])
    assert certain.objects == everything.objects[: len(certain.objects)]
    assert 0 < len(certain.objects) < len(scores)


def test_bad_files_are_named(task, files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    paths = [tmp_path / "bad.png", files / "val" / "000001.png"]
    bad, good = predictor_of(task)(paths, batch_size=2)
    assert bad.to_dict() == {"image": str(paths[0]), "error": "empty, not an image"}
    assert not good.error


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
