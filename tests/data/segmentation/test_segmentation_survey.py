"""Masks that cannot mean what they say: values that are no classes, classes without a pixel, colours."""

import numpy as np
import pytest
from PIL import Image

from _masks import NAMES, make_cityscapes, make_pixels, scene
from ctxvision.data import BadImageError, DataError, SegmentationData
from ctxvision.data.segmentation.cityscapes import LABEL_IDS
from ctxvision.data.segmentation.data import find_pixels
from ctxvision.data.segmentation.masks import mask_values, read_mask, survey, value_problem

PARTS = {"train": 4, "val": 2}


def remake(root, change, parts=PARTS, names=NAMES):
    """Write images with masks, each of which ``change`` makes of the classes (H, W)."""
    make_pixels(root, parts)
    (root / "classes.txt").write_text("\n".join(names))
    for part, count in parts.items():
        for index in range(count):
            made = change(scene(index)[1])
            image = made if isinstance(made, Image.Image) else Image.fromarray(made)
            image.save(root / "masks" / part / f"{index:03d}.png")
    return root


def binary(mask, value=255):
    return np.where(mask == 1, value, 0).astype(np.uint8)


LESION = ("background", "lesion")


@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        (
            binary,
            LESION,
            "no training pixel of 'lesion'; all are of 'background'; 255 is ignored: a mask of 0 and 255 needs 0 ",
        ),
        (lambda mask: np.full_like(mask, 255), NAMES, "no training pixel of 'sky', 'ground', 'tree'; all are 255"),
        (np.ones_like, NAMES, "all are of 'ground', so there is nothing to learn"),
        (
            lambda mask: binary(mask, 128),
            LESION,
            "not one of its 4 training masks can be used, as .*value 128 is none",
        ),
        (
            lambda mask: np.where(mask == 2, 255, mask * 128).astype(np.uint8),
            LESION,
            "value 128 is none of the 2 classes, nor 255; its values are 0, 128, 255",
        ),
        (lambda mask: mask + 1, NAMES, "masks hold 3 and never 0, but the 3 classes are 0 to 2; subtract 1"),
        (lambda mask: Image.fromarray(mask * 60).convert("RGB").point(lambda v: v + 9), NAMES, "value 9 is none"),
        (
            lambda mask: Image.fromarray(np.stack([mask * 60, mask, mask], -1)),
            NAMES,
            r"in colour \(RGB\), as \(\d+, .*: save the number of the class",
        ),
        (
            lambda mask: Image.fromarray(np.arange(mask.size, dtype=np.uint8).reshape(mask.shape)),
            NAMES,
            "as a JPEG or a resize that interpolates leaves them",
        ),
    ],
)
def test_masks_from_which_nothing_can_be_learnt_are_refused(tmp_path, change, names, message):
    with pytest.raises(DataError, match=message) as error:
        SegmentationData(remake(tmp_path, change, names=names))
    assert "\n" not in str(error.value)


def test_masks_that_cannot_be_used_are_named_beside(tmp_path):
    make_pixels(tmp_path, PARTS)
    for path in (tmp_path / "masks/train").iterdir():
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(path)
    Image.fromarray(binary(scene(1)[1], 128)).save(tmp_path / "masks/train/001.png")
    message = (
        r"all are of 'sky', so there is nothing to learn; 1 masks cannot be used, as 001\.png: value 128 is none"
    )
    with pytest.raises(DataError, match=message):
        SegmentationData(tmp_path)


def test_a_folder_of_jpeg_masks_says_why_there_are_none(tmp_path):
    make_pixels(tmp_path, PARTS)
    for path in sorted(tmp_path.glob("masks/*/*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(
        DataError, match=r"no counterpart, as .*000\.jpg: a mask must be a file of .*change the values"
    ):
        SegmentationData(tmp_path)


def test_where_nothing_is_trained_nothing_is_refused(tmp_path):
    spec = SegmentationData(make_pixels(tmp_path / "good", PARTS)).spec
    data = SegmentationData(remake(tmp_path / "odd", binary), spec=spec)
    assert len(data.eval_samples) == 2
    (note,) = data.notes
    assert "no validation pixel of 'ground', 'tree'; 255 is ignored: a mask of 0 and 255 needs 0 and 1" in note


def grey_of(mode):
    def change(mask):
        image = Image.fromarray(mask)
        return image.convert("L").convert(mode)

    return change


def as_palette(colors):
    def change(mask):
        image = Image.fromarray(mask, mode="P")
        image.putpalette(sum(colors, ()))
        return image

    return change


@pytest.mark.parametrize(
    "change",
    [
        *map(grey_of, ("RGB", "RGBA", "LA", "I;16")),
        lambda mask: mask.astype(np.uint16),
        as_palette([(9, 9, 9), (200, 0, 0), (0, 200, 0)]),
    ],
)
def test_every_way_to_save_numbers_is_read(tmp_path, change):
    data = SegmentationData(remake(tmp_path, change))
    for index in range(2):
        assert np.array_equal(data.val_dataloader().dataset[index].target.numpy(), scene(index)[1])
    assert data.notes == []


def test_masks_of_one_bit_and_of_floating_point(tmp_path):
    classes = scene(0)[1] > 0
    Image.fromarray(classes).save(tmp_path / "a.png")
    Image.fromarray(classes.astype(np.float32)).save(tmp_path / "b.tif")
    for name in ("a.png", "b.tif"):
        assert np.array_equal(mask_values(str(tmp_path / name), name), classes)


def spoiled(path, kind):
    classes = scene(0)[1]
    if kind == "jpeg":
        Image.fromarray(classes).save(path, "JPEG")
    elif kind == "alpha":
        Image.fromarray(np.stack([classes, classes * 100], -1), mode="LA").save(path)
    elif kind == "clear":
        Image.fromarray(np.stack([classes] * 3 + [classes * 0], -1)).save(path)
    elif kind == "half":
        Image.fromarray(classes + np.float32(0.5)).save(path, "TIFF")
    elif kind == "cmyk":
        Image.fromarray(classes).convert("CMYK").save(path, "TIFF")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("jpeg", "is a JPEG, which changes the values of pixels; save masks as PNG"),
        ("alpha", "is transparent in places"),
        ("clear", "is transparent in places"),
        ("half", "its values are not whole numbers"),
        ("cmyk", r"in colour \(CMYK\)"),
    ],
)
def test_files_that_are_no_masks_say_why(tmp_path, kind, reason):
    with pytest.raises(BadImageError, match=reason):
        mask_values(spoiled(tmp_path / "a.png", kind), "a.png")


def test_values_outside_eight_bits(tmp_path):
    table = find_pixels(make_pixels(tmp_path, PARTS)).table_for("a.png")
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(BadImageError, match="value 65535 is none of the 3 classes"):
        read_mask(str(tmp_path / "a.png"), table, "a.png")
    assert value_problem(np.array([[-1]]), table).startswith("value -1 is none")
    assert value_problem(np.zeros((0, 0), np.int64), table) == ""


def test_classes_without_a_pixel_are_named(tmp_path):
    def change(mask):
        return np.where(mask == 2, 0, mask).astype(np.uint8)

    data = SegmentationData(remake(tmp_path, change))
    assert data.notes == [
        f"{tmp_path}: no training pixel of 'tree'",
        f"{tmp_path}: no validation pixel of 'tree'; mean IoU leaves classes out that do not occur and are not "
        "predicted",
    ]


def test_a_class_that_occurs_in_one_part_only_is_named(tmp_path):
    make_pixels(tmp_path, PARTS)
    for path in (tmp_path / "masks/val").iterdir():
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(path)
    (note,) = SegmentationData(tmp_path).notes
    assert note.startswith(f"{tmp_path}: no validation pixel of 'ground', 'tree'; mean IoU")


def test_masks_without_a_class_are_counted(tmp_path):
    make_pixels(tmp_path, PARTS)
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(tmp_path / "masks/train/001.png")
    (note,) = SegmentationData(tmp_path).notes
    assert note == f"{tmp_path}: 1 training masks have no class: every pixel is to be ignored (001.png)"


def test_palettes_that_disagree_are_named(tmp_path):
    red, green = [(0, 0, 0), (200, 0, 0), (0, 200, 0)], [(0, 0, 0), (0, 200, 0), (200, 0, 0)]
    remake(tmp_path, as_palette(red))
    as_palette(green)(scene(2)[1]).save(tmp_path / "masks/train/002.png")
    (note,) = SegmentationData(tmp_path).notes
    assert "masks with palettes disagree: 1 is (200, 0, 0) in 000.png and (0, 200, 0) in 002.png" in note


def test_train_ids_in_files_of_label_ids_are_named(tmp_path):
    make_cityscapes(tmp_path)
    for path in tmp_path.glob("gtFine/*/*/*labelIds.png"):
        ids = np.asarray(Image.open(path))
        table = np.full(256, 255, np.uint8)
        table[list(LABEL_IDS)] = np.arange(19)
        Image.fromarray(table[ids]).save(path)
    for path in tmp_path.glob("gtFine/*/*/*labelTrainIds.png"):
        path.unlink()
    data = SegmentationData(tmp_path)
    assert "no label id is above 18: train ids belong in *_labelTrainIds.png" in data.notes[0]


def test_label_ids_in_files_of_train_ids_cannot_be_used(tmp_path):
    make_cityscapes(tmp_path)
    for path in tmp_path.glob("gtFine/*/*/*labelIds.png"):
        path.rename(str(path).replace("labelIds", "labelTrainIds"))
    data = SegmentationData(tmp_path)
    for index in range(3):
        data.report([item] if hasattr(item := data.val_dataloader().dataset[index], "reason") else [])
    assert any("is none of the 19 classes" in reason for reason in data.bad_images.values())


def test_few_masks_are_looked_at_where_all_classes_are_there(tmp_path):
    make_pixels(tmp_path, {"train": 40, "val": 1})
    found = find_pixels(tmp_path)
    seen = survey(found, found.train)
    assert (seen.looked, seen.classes) == (32, {0, 1, 2})
    many = survey(found, found.train * 30)
    assert many.looked == 32
    (tmp_path / "classes.txt").write_text("\n".join((*NAMES, "lake")))
    found = find_pixels(tmp_path)
    seen = survey(found, found.train * 30)
    assert (seen.looked, seen.total) == (500, 1200)


def test_a_single_class_is_looked_for_in_every_mask(tmp_path):
    remake(tmp_path, np.zeros_like, {"train": 40, "val": 1})
    Image.fromarray(scene(7)[1]).save(tmp_path / "masks/train/007.png")
    found = find_pixels(tmp_path)
    assert survey(found, found.train).classes == {0, 1, 2}
    pairs = [pair for pair in found.train if "007" not in pair[0]] * 20 + found.train
    assert survey(found, pairs).classes == {0, 1, 2}
