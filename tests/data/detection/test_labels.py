"""YOLO's and Pascal VOC's labels to COCO's format, read back by our own reader; hostile files."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ctxvision.cli import main
from ctxvision.data import DataError, DetectionData
from ctxvision.data.detection.labels import convert_labels
from ctxvision.data.detection.source import find_detection
from ctxvision.data.detection.voc_labels import parse_plain_xml

SIZE = (80, 40)  # width, height


def picture(path, size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read_back(done, split):
    """Boxes by file name and class, as a detector would be given them."""
    found = find_detection(done.data).read(split)
    return {
        Path(image.name).name: [
            (found.class_names[one.label - 1], tuple(round(v, 2) for v in one.box), one.crowd)
            for one in found.annotations[index]
        ]
        for index, image in enumerate(found.images)
    }


ULTRALYTICS = {
    "yaml": "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n",
    "train": "images/train", "val": "images/val",
}  # fmt: skip
ROBOFLOW = {
    "yaml": "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n",
    "train": "train/images", "val": "valid/images",
}  # fmt: skip


@pytest.fixture(params=[ULTRALYTICS, ROBOFLOW, None], ids=["ultralytics", "roboflow", "no yaml"])
def yolo(request, tmp_path):
    layout = request.param or ULTRALYTICS
    if request.param:
        write(tmp_path / "data.yaml", layout["yaml"])
    else:
        write(tmp_path / "classes.txt", "cat\ndog\n")
    for part, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(tmp_path / layout[part] / f"{name}.png")
    labels = {part: layout[part].replace("images", "labels") for part in ("train", "val")}
    write(tmp_path / labels["train"] / "a.txt", "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.5 0.5 0.9\n")
    write(tmp_path / labels["val"] / "c.txt", "1 0.1 0.1 0.6 0.1 0.6 0.9\n")
    return tmp_path


def test_yolo_boxes_and_polygons(yolo):
    done = convert_labels(yolo)
    assert done.data == str(yolo)  # what the advice about such a folder names
    assert find_detection(done.data).read("train").notes == []  # no word of paths that are as they should be
    assert done.counts == {"train": (2, 2), "val": (1, 1)}
    assert done.bad == {}
    assert read_back(done, "train") == {
        "a.png": [("cat", (30, 10, 50, 30), False), ("dog", (0, 0, 40, 20), False)],
        "b.png": [],
    }
    assert read_back(done, "val") == {"c.png": [("dog", (8, 4, 48, 36), False)]}
    (annotation,) = json.loads(done.files["val"].read_text())["annotations"]
    assert annotation["segmentation"] == [[8.0, 4.0, 48.0, 4.0, 48.0, 36.0]]
    assert annotation["area"] == 40 * 32 / 2


def test_boxes_for_a_detector_that_wants_masks_are_missed_by_name(yolo):
    done = convert_labels(yolo)
    with pytest.raises(DataError, match=r"no objects to train on; .*without a mask.*--detector faster_rcnn"):
        DetectionData(done.data, masks=True)


def test_the_folder_of_labels_need_not_be_written_to(yolo, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    before = sorted(yolo.rglob("*"))
    done = convert_labels(yolo, out)
    assert sorted(yolo.rglob("*")) == before
    assert len(read_back(done, "train")["a.png"]) == 2
    assert list(read_back(done, "val")) == ["c.png"]


def test_a_picture_on_its_side_is_measured_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images" / "a.jpg", exif=exif)
    write(tmp_path / "labels" / "a.txt", "0 0.5 0.5 1 0.5\n")
    write(tmp_path / "classes.txt", "cat\n")
    done = convert_labels(tmp_path)
    (image,) = json.loads(done.files["all"].read_text())["images"]
    assert (image["width"], image["height"]) == (40, 80)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "the number of a class, 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "the number of a class"),
        ("0 30 20 10 10", "are they pixels"),
        ("0 0.5 0.5 nan 0.1", "NaN"),
        ("cat 0.5 0.5 0.1 0.1", "not made of numbers"),
        ("0 0.5 0.5 0.1", "the number of a class"),
        ("0 0.5 0.5 0 0.1", "empty or outside"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "pairs of numbers"),
    ],
)
def test_a_wrong_line_leaves_its_image_out_with_a_reason(yolo, line, reason):
    file = next(path for path in yolo.rglob("a.txt"))
    write(file, f"0 0.5 0.5 0.25 0.5\n{line}\n")
    done = convert_labels(yolo)
    ((path, said),) = done.bad.items()
    assert Path(path).name == "a.png"
    assert said.startswith("a.txt, line 2: ")
    assert reason in said
    assert list(read_back(done, "train")) == ["b.png"]
    with pytest.raises(DataError, match=r"a\.txt, line 2"):
        convert_labels(yolo, strict=True)


def test_labels_that_lie_elsewhere_are_missed(tmp_path):
    picture(tmp_path / "images" / "a.png")
    write(tmp_path / "annotations" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="are the label files where they belong"):
        convert_labels(tmp_path)


@pytest.mark.parametrize(
    ("settings", "listed"),
    [
        ("path: {root}\ntrain: images\n", ""),
        ("train: sets/a.txt\n", "{root}/images/a.png\n"),
        ("train: sets/a.txt\n", "../images/a.png\n./images/a.png\n"),
    ],
)
def test_paths_may_be_absolute_where_the_folder_is_not(tmp_path, monkeypatch, settings, listed):
    root = tmp_path / "pets"
    picture(root / "images" / "a.png")
    write(root / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root / "sets" / "a.txt", listed.format(root=root))
    write(root / "data.yaml", settings.format(root=root) + "names: [cat]\n")
    monkeypatch.chdir(tmp_path)
    done = convert_labels("pets", "out")
    assert (done.counts, done.bad) == ({"train": (1, 1)}, {})
    assert json.loads(done.files["train"].read_text())["images"][0]["file_name"] == "images/a.png"


def test_poses_are_boxes(tmp_path):
    picture(tmp_path / "images" / "a.png")
    write(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 2\n")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]\nkpt_shape: [2, 3]\n")
    (annotation,) = json.loads(convert_labels(tmp_path).files["train"].read_text())["annotations"]
    assert annotation["bbox"] == [20.0, 10.0, 40.0, 20.0]
    assert "segmentation" not in annotation


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: ../private\nnames: [cat]\n", "lies outside of"),
        ("path: {above}\ntrain: private\nnames: [cat]\n", "lies outside of"),
        ("train: {above}/private\nnames: [cat]\n", "lies outside of"),
        ("train: images\n", "not the settings of a YOLO data set"),
        ("names: [cat]\n", "names no images"),
        ("train: images\nnames: [cat, cat]\n", "has a class twice"),
        ("train: images\nnames: {{1: cat}}\n", "numbered from 0"),
        ("train: [1]\nnames: [cat]\n", "must be paths"),
        ("a: &a [1]\nb: [*a]\nnames: [cat]\n", "not YAML"),
        ("names: [cat\n", "not YAML"),
    ],
)
def test_data_yaml_that_is_wrong_or_reaches_out_is_refused(tmp_path, text, reason):
    picture(tmp_path / "private" / "a.png")
    root = tmp_path / "pets"
    picture(root / "images" / "a.png")
    write(root / "data.yaml", text.format(above=tmp_path))
    with pytest.raises(DataError, match=reason):
        convert_labels(root)


def voc(*objects, size=SIZE):
    listed = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}"
        f"</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    return (
        f"<annotation><filename>../../etc/passwd</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>{listed}</annotation>"
    )


CAT, DOG = ("cat", (11, 6, 30, 20), 0), ("dog", (1, 1, 80, 40), 1)


def test_voc_devkit(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for name, objects in (("a", [CAT, DOG]), ("b", [CAT]), ("c", [])):
        picture(root / "JPEGImages" / f"{name}.jpg")
        write(root / "Annotations" / f"{name}.xml", voc(*objects))
    write(root / "ImageSets" / "Main" / "train.txt", "a\nc\n")
    write(root / "ImageSets" / "Main" / "val.txt", "b  1\n")
    done = convert_labels(tmp_path)
    assert done.class_names == ("cat", "dog")
    assert read_back(done, "train") == {
        "a.jpg": [("cat", (10, 5, 30, 20), False), ("dog", (0, 0, 80, 40), True)],
        "c.jpg": [],
    }
    assert read_back(done, "val") == {"b.jpg": [("cat", (10, 5, 30, 20), False)]}


def test_voc_files_beside_the_images(tmp_path):
    for part, name in (("train", "a"), ("valid", "b")):
        picture(tmp_path / part / f"{name}.jpg")
        write(tmp_path / part / f"{name}.xml", voc(CAT, size=(0, 0)))
    done = convert_labels(tmp_path)
    assert done.counts == {"train": (1, 1), "val": (1, 1)}
    assert list(read_back(done, "val")) == ["b.jpg"]


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        ("<annotation>" + "<a>" * 40 + "</a>" * 40 + "</annotation>", "nested"),
        ("<annotation><object></annotation>", "not XML"),
        ("", "not XML"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "not XML (unknown encoding"),
        ("<kml></kml>", "not an annotation"),
        ("<annotation><object><name>cat</name></object></annotation>", "no box of four numbers"),
        ("<annotation><object><name></name></object></annotation>", "without a name"),
        ("<annotation><object>cat</object></annotation>", "without a name"),
        (voc(CAT, size=(81, 40)), "is of an image of 81 × 40 pixels"),
        (voc(("cat", (90, 1, 99, 9), 0)), "empty or outside"),
        (voc(("cat", ("nan", 1, 99, 9), 0)), "no box of four numbers"),
    ],
)
def test_hostile_and_wrong_xml_costs_its_image_alone(tmp_path, text, reason):
    for name, content in (("a", text), ("b", voc(CAT))):
        picture(tmp_path / f"{name}.png")
        write(tmp_path / f"{name}.xml", content)
    done = convert_labels(tmp_path)
    ((path, said),) = done.bad.items()
    assert (Path(path).name, done.counts) == ("a.png", {"all": (1, 1)})
    assert said.startswith("a.xml: ")
    assert reason in said


def test_plain_xml_keeps_the_order_of_several_elements():
    assert parse_plain_xml(b"<a>x<b/><b>2</b>y</a>") == {"a": [{"b": ["", "2"]}]}


def test_the_command_says_how_to_train(yolo, capsys):
    assert main(["convert-labels", str(yolo)]) == 0
    printed = capsys.readouterr()
    assert "instances_train.json: 2 images, 2 objects\n" in printed.out
    assert printed.out.splitlines()[-1].endswith("--task detect")
    assert main(["convert-labels", str(yolo / "nothing")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    empty = yolo / "empty"
    empty.mkdir()
    assert main(["convert-labels", str(empty)]) == 1
    assert "neither YOLO's labels" in capsys.readouterr().err
