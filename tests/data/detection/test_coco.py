"""COCO's annotation files: what is read, and every way in which they may be wrong."""

import json

import numpy as np
import pytest
from _coco import HEIGHT, WIDTH, content, write
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as codes

from ctxvision.data import DataError, DetectionData, SplitRule
from ctxvision.data.detection.coco_reading import read_coco
from ctxvision.data.detection.coco_values import mask_problem, to_mask, uncompress
from ctxvision.data.detection.source import find_detection


def read(root, strict=False, masks=True):
    return read_coco(root / "annotations" / "instances_train.json", root / "train", masks=masks, strict=strict)


CROWD = (
    "{}/annotations/instances_train.json: 1 of 3 objects are crowds (iscrowd 1: annotation 3): they are not "
    "trained on, and detections in them do not count; where they are single objects, as masks of CVAT's brush are,"
    " add #crowd=single"
)


def test_classes_images_and_objects(tmp_path):
    found = read(write(tmp_path))
    assert found.class_names == ("cat", "dog")
    assert found.category_ids == (3, 17)
    assert [image.id for image in found.images] == [10, 11, 12, 13]
    polygon, code, crowd, nothing = (found.annotations[i] for i in range(4))
    assert polygon[0][:4] == (1, (5.0, 6.0, 15.0, 26.0), 200.0, False)
    assert (code[0].label, code[0].box) == (2, (0.0, 0.0, 2.0, 40.0))
    assert crowd[0].crowd
    assert nothing == []
    assert found.notes == [CROWD.format(tmp_path)]
    assert found.counts() == [1, 1]


def test_masks_equal_those_of_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    root = write(tmp_path)
    found = read(root)
    reference = COCO(str(root / "annotations" / "instances_train.json"))
    for index in range(3):
        (annotation,) = found.annotations[index]
        expected = reference.annToMask(reference.loadAnns(index + 1)[0])
        assert np.array_equal(to_mask(annotation.segmentation, HEIGHT, WIDTH), expected)
        assert expected.any()


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=20))
def test_codes_are_uncompressed_as_pycocotools_compresses_them(runs):
    runs = [*runs, 1]
    code = codes.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)
    assert uncompress(code["counts"].decode()).tolist() == runs


BAD = {
    "bbox": [
        ([5, 6, 0, 20], "zero or negative size"),
        ([5, 6, 10, -1], "zero or negative size"),
        ([float("nan"), 6, 10, 20], "NaN"),
        ([5, float("inf"), 10, 20], "NaN or infinite"),
        ([60, 6, 10, 20], "outside the image"),
        ([-30, 6, 20, 20], "outside the image"),
        ([-15, 6, 20, 20], "mostly outside"),
        ([5, 6, 10], "four numbers"),
        (["5", 6, 10, 20], "four numbers"),
        (None, "four numbers"),
    ],
    "category_id": [(4, "category that is not listed"), (None, "category"), ([3], "category")],
    "image_id": [(99, "image that is not listed"), (None, "image that is not listed"), ([10], "image")],
    "id": [(2, "came up before"), (None, "without an id")],
    "segmentation": [
        ({"size": [WIDTH, HEIGHT], "counts": [0, 80, HEIGHT * WIDTH - 80]}, "another size"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, 80]}, "damaged run-length"),
        ({"size": [HEIGHT, WIDTH], "counts": [0, -80, HEIGHT * WIDTH + 80]}, "damaged run-length"),
        ({"size": [HEIGHT, WIDTH], "counts": "oo"}, "damaged run-length"),
        ({"size": [HEIGHT, WIDTH], "counts": "ü"}, "damaged run-length"),
        ({"size": [HEIGHT, WIDTH]}, "damaged run-length"),
        ([[5, 6, 15, 6]], "three or more points"),
        ([[5, 6, 15, 6, 15]], "three or more points"),
        ([[5, 6, 15, 6, float("nan"), 20]], "NaN"),
        ([[5, 6, 15, 6, 1e9, 20]], "far outside"),
        ([["5", 6, 15, 6, 15, 20]], "numbers"),
        ([], "without a mask"),
    ],
}


@pytest.mark.parametrize(("field", "value", "reason"), [(f, *case) for f, cases in BAD.items() for case in cases])
def test_bad_object_is_counted_and_left_out(tmp_path, field, value, reason):
    damaged = content()
    # before the others, so that the later of two with one id is not the good one
    damaged["annotations"].insert(2, {**damaged["annotations"][0], "id": 77, field: value})
    root = write(tmp_path, train=damaged)
    found = read(root)
    assert sum(len(found.annotations[i]) for i in range(4)) == 3
    note, crowd = found.notes
    assert crowd == CROWD.format(root)
    assert reason in note
    assert "instances_train.json: 1 annotations" in note
    with pytest.raises(DataError, match=reason) as error:
        read(root, strict=True)
    assert "\n" not in str(error.value)


def test_masks_do_not_matter_where_only_boxes_are_wanted(tmp_path):
    damaged = content()
    damaged["annotations"][1]["segmentation"]["size"] = [1, 1]
    root = write(tmp_path, train=damaged)
    found = read(root, masks=False, strict=True)
    assert found.annotations[1][0].segmentation is None


def test_boxes_a_little_beyond_the_image_are_cut_off(tmp_path):
    wide = content()
    wide["annotations"][0]["bbox"] = [-0.5, 6, 10, 34.9]
    root = write(tmp_path, train=wide)
    assert read(root, strict=True).notes == [CROWD.format(root)]
    data = DetectionData(root, flip=0, masks=True)
    target = next(t for t in data.train_dataloader().dataset if t.target["image_id"] == 10).target
    assert target["boxes"].tolist() == [[0, 6, 9.5, 40]]


@pytest.mark.parametrize(
    ("change", "reason", "images"),
    [
        ({"file_name": "gone.png"}, "file does not exist", 3),
        ({"file_name": "../train/gone.png"}, "outside the folder", 3),
        ({"file_name": "../train/000.png"}, "whose file other images claim too", 3),
        ({"file_name": "/etc/passwd"}, "outside the folder", 3),
        ({"file_name": None}, "without a file name", 3),
        ({"height": None}, "without a height", 3),
        ({"width": -4}, "without a height", 3),
        ({"id": 11}, "came up before", 3),
        ({"id": None}, "without an id", 3),
    ],
)
def test_bad_image_is_counted_and_left_out(tmp_path, change, reason, images):
    damaged = content()
    damaged["images"][3] |= change
    root = write(tmp_path, train=damaged)
    found = read(root)
    assert len(found) == images
    assert reason in found.notes[0]
    with pytest.raises(DataError, match=reason):
        read(root, strict=True)


def test_objects_of_a_missing_image_go_with_it(tmp_path):
    root = write(tmp_path)
    (root / "train" / "000.png").unlink()
    found = read(root)
    assert len(found) == 3
    where = f"{root}/annotations/instances_train.json"
    assert found.notes[:2] == [
        f"{where}: 1 images whose file does not exist are left out (000.png)",
        f"{where}: 1 annotations of images that are left out go with them",
    ]


def test_many_problems_are_a_line_for_each_reason(tmp_path):
    damaged = content()
    damaged["annotations"] += [{**damaged["annotations"][0], "id": 50 + i, "bbox": [0, 0, 0, 0]} for i in range(5)]
    note, _ = read(write(tmp_path, train=damaged)).notes
    assert "5 annotations with a box of zero or negative size are left out (annotation 50, " in note
    assert note.endswith("…)")


WHOLE = json.dumps(content())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHOLE[: len(WHOLE) // 2], "truncated"),
        (WHOLE[:-1], "truncated"),
        ("", "truncated"),
        ("{'images': []}", "not JSON"),
        ("[]", "looks like results"),
        ("3", "expected an object, got a int"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"a": 1}', "no list 'images', only 'a'"),
        (json.dumps(content() | {"categories": []}), "lists no categories"),
        (json.dumps(content() | {"categories": [{"id": 1}]}), "needs a whole-number id and a name"),
        (json.dumps(content() | {"categories": [{"id": 1, "name": "a"}] * 2}), "id 1 is listed twice"),
        (
            json.dumps(content() | {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}),
            "name 'a' is listed twice",
        ),
        (json.dumps(content() | {"images": []}), "no usable images"),
        ("[" * 100_000, "lists within lists|truncated"),
    ],
)
def test_files_that_are_not_coco_s(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(write(tmp_path, train=text))
    assert "instances_train.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_not_text(tmp_path):
    root = write(tmp_path)
    (root / "annotations" / "instances_train.json").write_bytes(b"\xff\xd8\xff\xe0" * 10)
    with pytest.raises(DataError, match="not UTF-8"):
        read(root)


def test_layouts(tmp_path):
    root = write(tmp_path / "a")
    assert len(find_detection(root).read("val")) == 4
    # COCO's own names, and images in a folder of their own
    (root / "annotations" / "instances_train.json").rename(root / "annotations" / "instances_train2017.json")
    (root / "images").mkdir()
    (root / "train").rename(root / "images" / "train2017")
    assert len(find_detection(root).read("train")) == 4
    other = root / "annotations" / "instances_train2014.json"
    other.write_text(json.dumps(content()))
    with pytest.raises(DataError, match="choose with #train=train2017"):
        find_detection(root).read("train")
    assert len(find_detection(f"{root}#train=train2017").read("train")) == 4
    (root / "images").rename(root / "elsewhere")
    with pytest.raises(DataError, match="no folder train2014"):
        find_detection(f"{root}#train=train2014").read("train")


def test_single_file_is_split_by_name(tmp_path):
    root = write(tmp_path)
    name = f"{root / 'train'}:{root / 'annotations' / 'instances_train.json'}"
    source = find_detection(name, split=SplitRule(0.25))
    train, val = source.read("train"), source.read("val")
    assert (len(train), len(val)) == (3, 1)
    assert not {i.name for i in train.images} & {i.name for i in val.images}
    assert train.fingerprint == val.fingerprint != ""
    other = f"{name}#val={root / 'val'}:{root / 'annotations' / 'instances_val.json'}"
    assert len(find_detection(other).read("train")) == len(find_detection(other).read("val")) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "no such folder"),
        ("instances.json", "name the folder of its images"),
        ("digits-scenes#size=20", "from 48 to 4096"),
        ("digits-scenes#train=many", "whole number"),
        ("digits-scenes#colour=red", "no option 'colour'"),
        (".", "not in COCO's layout"),
    ],
)
def test_sources_that_are_none(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        find_detection(data)


def test_no_validation_part(tmp_path):
    root = write(tmp_path)
    (root / "annotations" / "instances_val.json").unlink()
    with pytest.raises(DataError, match=r"no annotations/instances_val\*\.json"):
        DetectionData(root)


def test_other_categories_in_validation(tmp_path):
    other = content()
    other["categories"][0]["name"] = "wolf"
    with pytest.raises(DataError, match=r"17 dog.*17 wolf"):
        DetectionData(write(tmp_path, val=other))


def test_no_code_reaches_pycocotools_unchecked():
    assert mask_problem({"size": [4, 4], "counts": "1" * 1000}, 4, 4) == "with a damaged run-length code"
    assert mask_problem({"size": [4, 4], "counts": [[1]]}, 4, 4) == "with a damaged run-length code"
    assert mask_problem({"size": [4, 4], "counts": [16.0]}, 4, 4) == "with a damaged run-length code"
    assert mask_problem("polygon", 4, 4) == "without a mask"
