"""What a detector finds, as data; tests/plots has the pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision.data import DetectionData
from ctxvision.data.detection.source import export_coco
from ctxvision.inference import predictor_of
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
