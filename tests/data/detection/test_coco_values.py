"""Objects of annotation files whose values other tools write differently, and objects that leave training."""

import json

import numpy as np
import pytest
import torch
from _coco import HEIGHT, WIDTH, content, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as codes

from ctxvision.data import DataError, DetectionData
from ctxvision.data.detection.coco_reading import read_coco
from ctxvision.data.detection.coco_values import as_category, as_crowd, as_id, box_of, is_number, to_mask
from ctxvision.data.detection.data import DetectionDataset, flip_horizontally, without_flat


def read(root, masks=True, **options):
    return read_coco(root / "annotations" / "instances_train.json", root / "train", masks=masks, **options)


def objects(found):
    return [a for index in range(len(found)) for a in found.annotations[index]]


def everything(dataset):
    return [dataset[index].target for index in range(len(dataset))]  # it takes any index: an epoch is in it


def as_pandas(value):
    """Every whole number as a float, as a data frame with gaps writes it."""
    if isinstance(value, dict):
        return {name: as_pandas(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_pandas(item) for item in value]
    return float(value) if isinstance(value, int) else value


def test_whole_numbers_may_be_floats(tmp_path):
    plain, floats = write(tmp_path / "a"), write(tmp_path / "b", train=as_pandas(content()))
    expected, found = read(plain, masks=False), read(floats, masks=False)
    assert found.category_ids == (3, 17)
    assert all(type(number) is int for number in found.category_ids)
    assert [(i.id, i.height, i.width) for i in found.images] == [
        (i.id, i.height, i.width) for i in expected.images
    ]
    assert objects(found) == objects(expected)
    assert [type(image.id) for image in found.images] == [int] * 4


def test_ids_may_be_strings(tmp_path):
    quoted = content()
    for image in quoted["images"]:
        image["id"] = str(image["id"])
    quoted["annotations"][0] |= {"image_id": "10", "category_id": "3"}  # the others name 11 and 12
    found = read(write(tmp_path, train=quoted))
    assert len(objects(found)) == 3
    assert len(found.notes) == 1  # of the crowd


@pytest.mark.parametrize("field", ["id", "image_id", "category_id"])
@pytest.mark.parametrize("value", [10.5, True, float("nan"), "", [], None])
def test_ids_that_are_none_are_left_out(tmp_path, field, value):
    damaged = content()
    damaged["annotations"].append({**damaged["annotations"][0], "id": 77, field: value})
    found = read(write(tmp_path, train=damaged))
    assert len(objects(found)) == 3
    assert "1 annotations" in found.notes[0]


def test_values():
    assert [as_id(v) for v in (1, 1.0, "a", "1", 1.5, True, None)] == [1, 1, "a", "1", None, None, None]
    assert [as_category(v) for v in (0, "0", "03", 2.0, "x", "²", False)] == [0, 0, 3, 2, None, None, None]
    assert not is_number(10**400)
    crowds = {False: (0, 0.0, False, None, "0", "", "false", "False"), True: (1, 1.0, True, "1", "true")}
    assert all(as_crowd(value) is meaning for meaning, values in crowds.items() for value in values)
    assert all(as_crowd(value) is None for value in (2, -1, 0.5, "maybe", [], {}, float("nan")))


@pytest.mark.parametrize(("value", "crowds"), [("0", 1), (False, 1), (None, 1), (0.0, 1), ("1", 2), (True, 2)])
def test_crowds_are_counted_and_named(tmp_path, value, crowds):
    marked = content()
    marked["annotations"][0]["iscrowd"] = value
    found = read(write(tmp_path, train=marked))
    assert sum(a.crowd for a in objects(found)) == found.crowds() == crowds
    (note,) = found.notes
    assert f"{crowds} of 3 objects are crowds" in note
    assert "#crowd=single" in note


def test_a_mark_that_means_nothing_is_left_out(tmp_path):
    marked = content()
    marked["annotations"][0]["iscrowd"] = "maybe"
    found = read(write(tmp_path, train=marked))
    assert len(objects(found)) == 2
    assert 'iscrowd is neither 0 nor 1 are left out (annotation 1, iscrowd "maybe")' in found.notes[0]


def all_crowds():
    return content() | {"annotations": [a | {"iscrowd": 1} for a in content()["annotations"]]}


def test_a_set_of_crowds_says_what_to_do(tmp_path):
    root = write(tmp_path, train=all_crowds(), val=all_crowds())
    with pytest.raises(
        DataError, match=r"no objects to train on; all 3 are crowds \(iscrowd 1\), which #crowd=single"
    ):
        DetectionData(root)
    data = DetectionData(f"{root}#crowd=single", masks=True, flip=0)
    assert data.spec.train_counts == (2, 1)
    targets = everything(data.train_dataloader().dataset)
    assert [len(target["boxes"]) for target in targets] == [1, 1, 1, 0]
    assert any("3 of 3 objects have iscrowd 1 and are taken as single objects" in note for note in data.notes)
    truth = [target["truth"] for target in everything(data.val_dataloader().dataset)]
    assert [row["iscrowd"] for rows in truth for row in rows] == [0, 0, 0]
    with pytest.raises(DataError, match="crowd must be regions or single, got 'yes'"):
        DetectionData(f"{root}#crowd=yes")


def test_a_box_that_would_vanish_is_left_out(tmp_path):
    thin = content()
    thin["annotations"].append({**thin["annotations"][0], "id": 77, "bbox": [-0.6, 5, 0.60001, 6]})
    thin["annotations"].append({**thin["annotations"][0], "id": 78, "bbox": [WIDTH - 0.001, 5, 9, 6]})
    found = read(write(tmp_path, train=thin))
    assert len(objects(found)) == 3
    assert "2 annotations with a box of less than 0.01 pixels within the image" in found.notes[0]


SIDE = st.floats(-50, 400, allow_nan=False)


@given(st.tuples(SIDE, SIDE, SIDE, SIDE), st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 20))
def test_every_accepted_box_survives_clipping_flipping_and_resizing(bbox, height, width, ratio):
    problem, box = box_of(list(bbox), height, width)
    if problem:
        return
    boxes = torch.tensor([box], dtype=torch.float32)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    image = torch.zeros(1, height, width)
    _, flipped = flip_horizontally(image, {"boxes": boxes})
    for some in (boxes, flipped["boxes"], boxes * ratio, flipped["boxes"] * ratio):
        assert (some[:, 2:] > some[:, :2]).all()


def test_what_rounding_has_flattened_is_left_out_with_its_label_and_mask():
    target = {
        "boxes": torch.tensor([[1.0, 1, 2, 2], [5, 1, 5, 2]]),
        "labels": torch.tensor([1, 2]),
        "masks": torch.zeros(2, 8, 8),
        "image_id": 3,
    }
    kept = without_flat(target)
    assert kept["boxes"].tolist() == [[1, 1, 2, 2]]
    assert (kept["labels"].tolist(), len(kept["masks"]), kept["image_id"]) == ([1], 1, 3)


GOOD = [5, 6, 15, 6, 15, 26, 5, 26]


@pytest.mark.parametrize("segmentation", [[GOOD, [1, 1, 2, 2]], [[1, 1, 2, 2], GOOD], [[], GOOD], GOOD])
def test_polygons_of_two_points_cost_their_object_nothing(tmp_path, segmentation):
    mixed = content()
    mixed["annotations"][0]["segmentation"] = segmentation
    found = read(write(tmp_path, train=mixed))
    expected = codes.decode(codes.frPyObjects([GOOD], HEIGHT, WIDTH))[..., 0]
    assert np.array_equal(to_mask(objects(found)[0].segmentation, HEIGHT, WIDTH), expected)
    cut = [note for note in found.notes if "1 polygons of fewer than three points are left out" in note]
    assert len(cut) == (segmentation is not GOOD)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "with an empty mask"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 0]}, "with an empty mask"),
        ({"size": [float(HEIGHT), float(WIDTH)], "counts": [0, 80, HEIGHT * WIDTH - 80]}, ""),
        ([[5, 6, 15, 6, 10**400, 26]], "far outside the image"),
        ([[1, 1, 2, 2]], "three or more points"),
    ],
)
def test_masks(tmp_path, segmentation, reason):
    changed = content()
    changed["annotations"][0]["segmentation"] = segmentation
    found = read(write(tmp_path, train=changed))
    assert len(objects(found)) == (2 if reason else 3)
    assert (reason in found.notes[0]) if reason else len(found.notes) == 1


def test_a_box_of_a_number_beyond_all_floats_is_left_out(tmp_path):
    huge = content()
    huge["annotations"][0]["bbox"] = [10**400, 1, 2, 3]
    assert "NaN or infinite" in read(write(tmp_path, train=huge)).notes[0]


@pytest.mark.parametrize("area", [0, None, -3, float("nan"), "12"])
def test_an_object_without_an_area_has_that_of_its_box(tmp_path, area):
    changed = content()
    changed["annotations"][0]["area"] = area
    assert objects(read(write(tmp_path, train=changed)))[0].area == 200.0


def test_roboflow_s_group_of_the_same_name_is_no_class(tmp_path):
    grouped = content()
    grouped["categories"] = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "cat"},
        {"id": 17, "name": "dog", "supercategory": "cat"},
    ]
    root = write(tmp_path, train=grouped)
    found = read(root)
    assert (found.class_names, found.category_ids) == (("cat", "dog"), (3, 17))
    assert any("the category 0 only groups others" in note for note in found.notes)
    grouped["annotations"][0]["category_id"] = 0  # with objects it is a class, and two of a name are none
    (root / "annotations" / "instances_train.json").write_text(json.dumps(grouped))
    with pytest.raises(DataError, match="the category name 'cat' is listed twice"):
        read(root)


def test_images_without_annotations_and_annotations_without_images(tmp_path):
    odd = content()
    odd["annotations"] = [{**odd["annotations"][0], "id": 9, "image_id": 99}]
    found = read(write(tmp_path, train=odd))
    assert [len(found.annotations[index]) for index in range(4)] == [0, 0, 0, 0]
    assert "1 annotations of an image that is not listed" in found.notes[0]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.floats() | st.sampled_from(["", "1", "x", "0", 10**400]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "a"]), inner),
    max_leaves=12,
)
FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area"),
    "categories": ("id", "name", "supercategory"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shared"))


@settings(max_examples=50)
@given(
    st.lists(
        st.sampled_from([(part, field) for part, fields in FIELDS.items() for field in fields]),
        min_size=1,
        max_size=3,
    ),
    st.lists(ODD, min_size=3, max_size=3),
    st.booleans(),
)
def test_no_value_of_a_stranger_s_file_is_an_error_of_ours(shared, places, values, masks):
    made = content()
    for (part, field), value in zip(places, values, strict=False):
        made[part][0][field] = value
    file = shared / "annotations" / "odd.json"
    file.write_text(json.dumps(made))
    try:
        found = read_coco(file, shared / "train", masks=masks)
    except DataError:
        return
    dataset = DetectionDataset(found, masks=masks, train=True, flip=0.5)
    for target in everything(dataset):
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert len(target["boxes"]) == len(target["labels"])
    everything(DetectionDataset(found, masks=masks))
