"""Answers as COCO's JSON, YOLO's text files and Cityscapes' label ids; `ctxvision predict --format`."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from _checkpoints import detection_task, segmentation_task, write_classifier, write_task
from ctxvision.cli import main
from ctxvision.data import DetectionSpec
from ctxvision.data.detection.labels import convert_labels
from ctxvision.inference import FoundObject, InferenceError, Objects, Pixels
from ctxvision.inference.formats import cityscapes_ids, coco_dataset, label_id_png, yolo_lines

SPEC = DetectionSpec(("cat", "dog"), (3, 7))
CAT, DOG = (
    FoundObject("cat", 1, 0.9, (8.0, 4.0, 16.0, 8.0), 128.0),
    FoundObject("dog", 2, 0.5, (0, 0, 80, 40), 9.0),
)


def test_coco_has_images_annotations_and_the_categories_of_the_training():
    found = coco_dataset([Objects("a.png", "", 80, 40, (CAT, DOG)), Objects("b.png", "", 8, 4, ())], SPEC)
    assert found["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert [image["id"] for image in found["images"]] == [1, 2]
    assert found["annotations"][1] == {
        "id": 2, "image_id": 1, "category_id": 7, "bbox": [0, 0, 80, 40], "score": 0.5, "area": 9.0, "iscrowd": 0,
    }  # fmt: skip


def test_yolo_has_centres_and_sizes_as_shares():
    assert yolo_lines(Objects("a.png", "", 80, 40, (CAT, DOG))).splitlines() == [
        "0 0.200000 0.200000 0.200000 0.200000 0.900000",
        "1 0.500000 0.500000 1.000000 1.000000 0.500000",
    ]


def test_label_ids_are_those_of_the_official_table():
    ids = cityscapes_ids(["car", "road", "train"])
    assert dict(ids) == {0: 26, 1: 7, 2: 31}
    classes = np.array([[0, 1], [2, 0]])
    png = Image.open(io.BytesIO(label_id_png(Pixels("a.png", "", classes), ids)))
    assert (png.mode, np.asarray(png).tolist()) == ("L", [[26, 7], [31, 26]])
    with pytest.raises(InferenceError, match="2 other classes, the first 'cat'"):
        cityscapes_ids(["road", "cat", "dog"])


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, width in (("a", 96), ("b", 128), ("nested/a", 96)):
        Path("photos/nested").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 255, (96, width, 3), np.uint8)
        Image.fromarray(noise).save(f"photos/{name}.png")
    return "photos"


def test_predict_writes_what_can_be_trained_on_again(pictures, capsys):
    write_task(detection_task("faster_rcnn"), "net.ckpt")
    words = ["predict", "net.ckpt", pictures, "--threshold=0.02", "--workers=0"]
    assert main([*words, "--format=coco", "--out=found.json"]) == 0
    coco = json.loads(Path("found.json").read_text())
    assert len(coco["images"]) == 3
    assert coco["annotations"]
    assert main([*words, "--format=yolo", "--out=labels"]) == 0
    assert capsys.readouterr().out == "labels: 3 files\n"
    assert sorted(path.name for path in Path("labels").iterdir()) == ["a-2.txt", "a.txt", "b.txt", "classes.txt"]
    # through our own reader of YOLO's labels, the same boxes
    Path("labels/a-2.txt").rename("labels/a.txt")
    Path("images").mkdir()
    Path("photos/b.png").rename("images/b.png")
    Path("labels/classes.txt").rename("classes.txt")
    again = json.loads(convert_labels(".").files["all"].read_text())
    (number,) = (image["id"] for image in coco["images"] if image["file_name"].endswith("b.png"))
    boxes = [one["bbox"] for one in coco["annotations"] if one["image_id"] == number]
    np.testing.assert_allclose([one["bbox"] for one in again["annotations"]], boxes, atol=0.01)


def test_predict_writes_label_ids_under_the_names_of_the_images(pictures, capsys):
    spec = {"class_names": ["road", "car"], "input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3}
    write_task(segmentation_task(spec=spec), "net.ckpt")
    words = ["predict", "net.ckpt", "photos/b.png", "--workers=0", "--format=cityscapes"]
    assert main([*words, "--out=ids"]) == 0
    ids = np.asarray(Image.open("ids/b.png"))
    assert ids.shape == (96, 128)
    assert set(np.unique(ids)) <= {7, 26}
    assert main(words) == 2
    assert "name the folder with --out" in capsys.readouterr().err


def test_a_format_of_another_task_or_of_other_classes_is_refused(pictures, capsys):
    write_classifier(Path("classifier.ckpt"))
    assert main(["predict", "classifier.ckpt", pictures, "--format=coco"]) == 2
    assert "--format coco is for detection; classifier.ckpt is for classification" in capsys.readouterr().err
    write_task(segmentation_task(), "net.ckpt")
    assert main(["predict", "net.ckpt", pictures, "--format=cityscapes", "--out=ids"]) == 1
    assert "label ids are for the classes of Cityscapes" in capsys.readouterr().err
