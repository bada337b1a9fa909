"""What a detector finds, as data, as pictures and as a page."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision.data import DetectionData
from ctxvision.data.detection.scenes import export_coco
from ctxvision.evaluation.detection import evaluate_detector
from ctxvision.explain import ReportError
from ctxvision.inference import predictor_of
from ctxvision.pages.detection_page import render
from ctxvision.runs import RunFolder
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


@pytest.fixture(scope="module")
def evaluation(task, files):
    data = DetectionData(files, masks=True, batch_size=2, train=False)
    return evaluate_detector(task, data, data_name="<scenes>", checkpoint="best.ckpt", images=3, threshold=0.0)


def test_evaluation_equals_the_metric(evaluation, task, files):
    from ctxvision.tasks.detection.metric import DetectionMetric

    data = DetectionData(files, masks=True, batch_size=1, train=False)
    metric = DetectionMetric(10, masks=True)
    with torch.no_grad():
        for batch in data.val_dataloader():
            images, targets = data.on_after_batch_transfer(batch, 0)
            metric.update(targets, task(images))
    expected = metric.compute()
    numbers = evaluation.numbers
    assert numbers["box"]["ap"] == pytest.approx(expected["bbox"].ap, abs=1e-6)
    assert numbers["mask"]["ap50"] == pytest.approx(expected["segm"].ap50, abs=1e-6)
    assert numbers["images"] == 4
    assert numbers["objects"] == sum(c["objects"] for c in numbers["classes"])
    without = [c["name"] for c in numbers["classes"] if not c["objects"]]
    assert numbers["classes_left_out"] == without
    assert without
    json.dumps(numbers, allow_nan=False)


def test_page_and_lines_name_the_classes_that_the_mean_leaves_out(evaluation):
    from ctxvision._cli.kinds.detection import _lines

    named = evaluation.numbers["classes_left_out"]
    over = f"over {10 - len(named)} of 10 classes, without '{named[0]}'"
    assert over.replace("'", "&#39;") in render(evaluation)
    assert f"({over}" in _lines(evaluation.numbers)[-1]


def test_results_have_the_ids_of_the_file(evaluation, files):
    content = json.loads((files / "annotations" / "instances_val.json").read_text())
    assert {entry["image_id"] for entry in evaluation.results} <= {image["id"] for image in content["images"]}
    assert {entry["category_id"] for entry in evaluation.results} <= {c["id"] for c in content["categories"]}
    assert len(evaluation.results) > 4


def test_page_is_whole_and_needs_nothing_else(evaluation):
    page = render(evaluation)
    assert "&lt;scenes&gt;" in page
    assert "<scenes>" not in page
    assert page.count("<img") == 6
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "<script" not in page


def test_page_with_curves(evaluation, tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,val_box_ap,val_mask_ap\n1,3.5,,\n2,2.5,0.25,0.2\n")
    curve = RunFolder(tmp_path).read_metrics()
    assert curve[0]["val_box_ap"] is None
    assert curve[1]["val_mask_ap"] == 0.2
    page = render(type(evaluation)(evaluation.numbers | {"curve": curve}, evaluation.pictures, []))
    assert "Validation AP over 2 epochs, best of boxes 25.0 %" in page


def test_nothing_that_can_be_read(task, files, tmp_path):
    import shutil

    shutil.copytree(files, tmp_path / "copy")
    for path in (tmp_path / "copy" / "val").iterdir():
        path.write_bytes(b"")
    data = DetectionData(tmp_path / "copy", masks=True, train=False)
    with pytest.raises(ReportError, match="not one image could be read"):
        evaluate_detector(task, data, data_name="copy")
