"""Exports of annotation tools: their folders, and how they spell the names of images."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from _coco import content, write

from ctxvision.data import DataError, DetectionData, SplitRule
from ctxvision.data.detection.coco_layouts import ImageFiles
from ctxvision.data.detection.coco_reading import read_coco
from ctxvision.data.detection.source import find_detection
from ctxvision.tasks.detection import DetectionTask

COUNT = 4


def export(name, **changes):
    """COCO's content with the file names ``name`` makes of their numbers."""
    made = content()
    for index, image in enumerate(made["images"]):
        image["file_name"] = name(index)
    return made | changes


def pictures(source: Path, into: Path, name=lambda index: f"{index:03d}.png"):
    into.mkdir(parents=True, exist_ok=True)
    for index in range(COUNT):
        shutil.copy(source / f"{index:03d}.png", into / name(index))


def put(path: Path, what: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain")) / "train"


def cvat(root, plain):  # one subset, "default"
    put(root / "annotations/instances_default.json", content())
    pictures(plain, root / "images/default")


def cvat_subsets(root, plain):
    for part in ("Train", "Validation"):
        put(root / f"annotations/instances_{part}.json", content())
        pictures(plain, root / "images" / part)


def label_studio(root, plain):
    put(root / "result.json", export(lambda i: f"images/{i:03d}.png"))
    pictures(plain, root / "images")


def label_studio_on_windows(root, plain):
    put(root / "result.json", export(lambda i: f"images\\3/0c8f62a{i}-{i:03d}.png"))
    pictures(plain, root / "images", lambda i: f"0c8f62a{i}-{i:03d}.png")


def label_studio_with_images(root, plain):
    put(root / "result.json", export(lambda i: f"..\\..\\label-studio\\media\\upload\\4\\cb0618f{i}-{i:03d}.png"))
    pictures(plain, root / "images", lambda i: f"cb0618f{i}-{i:03d}.png")


def roboflow(root, plain):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "animals"},
        {"id": 17, "name": "dog", "supercategory": "animals"},
    ]
    for part in ("train", "valid", "test"):
        put(root / part / "_annotations.coco.json", content() | {"categories": categories})
        pictures(plain, root / part)


def labelme(root, plain):
    put(root / "annotations.json", export(lambda i: f"JPEGImages/{i:03d}.png"))
    pictures(plain, root / "JPEGImages")


def fiftyone(root, plain):
    put(root / "labels.json", content())
    pictures(plain, root / "data")


def via(root, plain):  # ids of images as strings in annotations
    made = content()
    for annotation in made["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    put(root / "via_export_coco.json", made)
    pictures(plain, root)


def absolute(root, plain):
    put(root / "annotations.json", export(lambda i: f"C:\\Users\\Anna\\photos\\{i:03d}.png"))
    pictures(plain, root / "images")


EXPORTS = [
    cvat, cvat_subsets, label_studio, label_studio_on_windows, label_studio_with_images, roboflow, labelme,
    fiftyone, via, absolute,
]  # fmt: skip


@pytest.mark.parametrize("make", EXPORTS, ids=lambda make: make.__name__)
def test_export_is_read_as_it_is(tmp_path, plain, make):
    make(tmp_path, plain)
    source = find_detection(tmp_path, split=SplitRule(0.25), masks=True)
    train, val = source.read("train"), source.read("val")
    in_parts = make in (cvat_subsets, roboflow)
    assert (len(train), len(val)) == ((4, 4) if in_parts else (3, 1))
    assert [name for name in train.class_names if name != "animals"] == ["cat", "dog"]
    read = {image.id: found for part in (val, train) for image, found in zip(part.images, rows(part), strict=True)}
    assert {number: boxes for number, (boxes, _) in read.items()} == {
        10: [(5, 6, 15, 26)],
        11: [(0, 0, 2, 40)],
        12: [(20, 0, 30, 40)],
        13: [],
    }
    assert all(os.path.basename(path).endswith(f"{number - 10:03d}.png") for number, (_, path) in read.items())
    assert all(os.path.isfile(path) for _, path in read.values())


def rows(part):
    return [([a.box for a in part.annotations[index]], image.name) for index, image in enumerate(part.images)]


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    spec = {"class_names": ["animals", "cat", "dog"], "category_ids": [0, 3, 17], "in_chans": 3}
    small = {"width": 16, "hidden": 16, "anchor_sizes": [8, 16, 32, 64, 128], "min_size": 64, "max_size": 96}
    return DetectionTask("test_resnet", spec, detector="mask_rcnn", norm="batch", **small)


@pytest.mark.parametrize(
    "make", [cvat, label_studio_on_windows, roboflow, fiftyone], ids=lambda make: make.__name__
)
def test_export_trains(tmp_path, plain, make, task):
    make(tmp_path, plain)
    data = DetectionData(tmp_path, masks=True, batch_size=4, flip=0.5, val_fraction=0.25)
    batch = next(iter(data.train_dataloader()))
    assert not batch.bad
    images, targets = data.on_after_batch_transfer(batch, 0)
    assert all(torch.isfinite(loss) for loss in task.model(images, targets).values())


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("images\\000.png", "images/000.png"),
        ("./images/000.png", "images/000.png"),
        ("images//000.png", "images/000.png"),
        ("my%20photo.png", "my photo.png"),
        ("my%20photo.png", "images/my photo.png"),
        ("file:///home/anna/set/000.png", "000.png"),
        ("http://localhost:8080/data/upload/1/000.png?token=1", "images/000.png"),
        ("/data/local-files/?d=set/photos/000.png", "photos/000.png"),
        ("/data/local-files/?d=set%5Cphotos%5C000.png", "photos/000.png"),
        ("/home/anna/set/photos/000.png", "photos/000.png"),
        ("C:\\set\\photos\\000.png", "photos/000.png"),
        ("../../media/upload/3/0c8f62ab-000.png", "images/0c8f62ab-000.png"),
        ("upload/3/0c8f62ab-000.png", "000.png"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("Images/000.PNG", "images/000.png"),
        (unicodedata.normalize("NFC", "Grün.png"), unicodedata.normalize("NFD", "Grün.png")),
        (unicodedata.normalize("NFD", "Grün.png"), unicodedata.normalize("NFC", "Grün.png")),
    ],
)
def test_spellings(tmp_path, listed, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    found = ImageFiles(tmp_path).find(listed)
    assert found == there
    assert (tmp_path / found).is_file()


@pytest.mark.parametrize("listed", ["", "/", "..", "http://[", "%00", "a\0b.png", "images/", "999.png", "%"])
def test_spellings_of_nothing(tmp_path, listed):
    (tmp_path / "000.png").touch()
    (tmp_path / "images").mkdir()
    assert ImageFiles(tmp_path).find(listed) is None


def test_no_spelling_leads_out_of_the_folder(tmp_path):
    (tmp_path / "secret.png").touch()
    (tmp_path / "set").mkdir()
    files = ImageFiles(tmp_path / "set")
    for name in ("../secret.png", "..\\secret.png", "%2e%2e/secret.png", str(tmp_path / "secret.png")):
        assert files.find(name) is None


def test_of_two_that_differ_in_case_neither_is_taken(tmp_path):
    for name in ("a.PNG", "A.png"):
        (tmp_path / name).touch()
    assert len({path.name for path in tmp_path.iterdir()}) == 2
    assert ImageFiles(tmp_path).find("a.png") is None
    assert ImageFiles(tmp_path).find("x/A.png") == "A.png"


def test_images_that_share_a_name_in_other_folders_are_not_taken_for_one(tmp_path, plain):
    names = ["cam1/000.png", "cam2/000.png", "x/001.png", "002.png"]
    put(tmp_path / "a.json", export(lambda index: names[index]))
    found = read_coco(tmp_path / "a.json", plain)
    assert [image.id for image in found.images] == [12, 13]
    assert "2 images whose file other images claim too are left out (cam1/000.png for 000.png" in found.notes[0]
    assert any("1 images are taken from other paths, as '001.png' for 'x/001.png'" in note for note in found.notes)


def test_images_that_are_nowhere_are_looked_for_by_name(tmp_path, plain):
    put(tmp_path / "a.json", export(lambda index: f"D:\\set\\{index}.jpg"))
    with pytest.raises(DataError) as error:
        read_coco(tmp_path / "a.json", plain)
    message = str(error.value)
    assert "no usable images; 4 images whose file does not exist are left out (D:\\set\\0.jpg" in message
    assert f"looked for 'D:\\\\set\\\\0.jpg', and its endings, in {plain}, which holds '000.png'" in message
    assert "\n" not in message


def test_parts_of_roboflow_s_layout_that_are_missing(tmp_path, plain):
    roboflow(tmp_path, plain)
    for part in ("valid", "test"):
        shutil.rmtree(tmp_path / part)
    assert len(find_detection(tmp_path, split=SplitRule(0.25)).read("train")) == 3
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match=r"no single \.json"):
        find_detection(tmp_path)
