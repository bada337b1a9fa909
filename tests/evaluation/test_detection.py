"""The scores of a detector against the metric of training, its results file, and what it refuses."""

import json
import shutil

import pytest
import torch

from _scored import detection_scores, detection_task
from ctxvision.data import DetectionData, export_coco
from ctxvision.evaluation import EvaluationError, evaluate
from ctxvision.inference import predictor_of
from ctxvision.tasks.detection.metric import DetectionMetric


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    export_coco(root, train=2, val=4, size=64)
    return root


@pytest.fixture(scope="module")
def scores(files):
    return detection_scores(files)


def test_scores_equal_the_metric(scores, files):
    data, task = DetectionData(files, masks=True, batch_size=1, train=False), detection_task()
    metric = DetectionMetric(10, masks=True)
    with torch.no_grad():
        for batch in data.val_dataloader():
            images, targets = data.on_after_batch_transfer(batch, 0)
            metric.update(targets, task(images))
    expected, numbers = metric.compute(), scores.numbers
    assert numbers["box"]["ap"] == pytest.approx(expected["bbox"].ap, abs=1e-6)
    assert numbers["mask"]["ap50"] == pytest.approx(expected["segm"].ap50, abs=1e-6)
    assert numbers["images"] == 4
    assert numbers["objects"] == sum(c["objects"] for c in numbers["classes"])
    without = [c["name"] for c in numbers["classes"] if not c["objects"]]
    assert numbers["classes_left_out"] == without
    assert without
    json.dumps(numbers, allow_nan=False)


def test_lines_name_the_classes_that_the_mean_leaves_out(scores):
    named = scores.numbers["classes_left_out"]
    assert f"(over {10 - len(named)} of 10 classes, without '{named[0]}'" in scores.lines[-1]
    assert str(scores).splitlines()[-1] == scores.lines[-1]


def test_results_have_the_ids_of_the_file(scores, files):
    content = json.loads((files / "annotations" / "instances_val.json").read_text())
    assert {entry["image_id"] for entry in scores.results} <= {image["id"] for image in content["images"]}
    assert {entry["category_id"] for entry in scores.results} <= {c["id"] for c in content["categories"]}
    assert len(scores.results) > 4


def test_examples_are_of_the_images_that_are_named(scores):
    assert [e["truth"] for e in scores.numbers["examples"]] == [len(one.truth) for one in scores.examples]
    assert [e["found"] for e in scores.numbers["examples"]] == [len(one.found) for one in scores.examples]
    assert len(scores.examples) == 3
    assert scores.examples[0].pixels.dtype == torch.uint8


def test_nothing_that_can_be_read(files, tmp_path):
    shutil.copytree(files, tmp_path / "copy")
    for path in (tmp_path / "copy" / "val").iterdir():
        path.write_bytes(b"")
    with pytest.raises(EvaluationError, match="copy: not one image could be read"):
        evaluate(predictor_of(detection_task()), tmp_path / "copy", workers=0)


def test_images_without_objects_give_results_only_where_that_is_asked_for(files, tmp_path):
    shutil.copytree(files, tmp_path / "copy")
    annotations = tmp_path / "copy" / "annotations" / "instances_val.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []}))
    predictor = predictor_of(detection_task())
    with pytest.raises(EvaluationError, match="there are no objects, so average precision means nothing"):
        evaluate(predictor, tmp_path / "copy", workers=0)
    scores = evaluate(predictor, tmp_path / "copy", workers=0, without_truth=True)
    assert scores.numbers["box"]["ap"] is None
    assert scores.results
