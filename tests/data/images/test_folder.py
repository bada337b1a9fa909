"""Layouts of image folders, and what is wrong with some."""

import os

import pytest

from _pictures import make_folder, picture
from ctxvision.data import DataError, SplitRule
from ctxvision.data.images.source import scan_folder


def names(samples, root):
    return [os.path.relpath(path, root) for path, _ in samples]


def test_train_and_val(tmp_path):
    make_folder(tmp_path, {"train/dog": 3, "train/cat": 2, "val/cat": 1, "val/dog": 2})
    found = scan_folder(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert names(found.train, tmp_path) == [
        "train/cat/000.png",
        "train/cat/001.png",
        "train/dog/000.png",
        "train/dog/001.png",
        "train/dog/002.png",
    ]
    assert [label for _, label in found.train] == [0, 0, 1, 1, 1]
    assert [label for _, label in found.val] == [0, 1, 1]
    assert found.fingerprint == ""
    assert not found.notes


@pytest.mark.parametrize("folder", ["validation", "valid", "test", "Test", "TESTING"])
def test_other_names_of_val_are_accepted_and_said(tmp_path, folder):
    make_folder(tmp_path, {"train/cat": 2, "train/dog": 2, f"{folder}/cat": 1, f"{folder}/dog": 1})
    found = scan_folder(tmp_path)
    assert len(found.val) == 2
    assert found.notes == [f"validating on {tmp_path / folder}"]


@pytest.mark.parametrize(("train", "val"), [("Train", "Val"), ("training", "validation"), ("TRAIN", "val")])
def test_parts_in_other_spellings_are_no_classes(tmp_path, train, val):
    make_folder(tmp_path, {f"{train}/cat": 2, f"{train}/dog": 2, f"{val}/cat": 1, f"{val}/dog": 1})
    found = scan_folder(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert (len(found.train), len(found.val)) == (4, 2)


def test_folders_of_folders_say_which_are_the_classes(tmp_path):
    make_folder(tmp_path, {"pets/cat": 2, "pets/dog": 2, "wild/elk": 2, "wild/fox": 2})
    (note,) = scan_folder(tmp_path).notes
    assert "the classes are 'pets', 'wild'; the folders in them ('cat', 'dog', 'elk', 'fox') are not told" in note
    assert "train" not in note


def test_parts_with_names_of_their_own_are_said_to_be_none(tmp_path):
    make_folder(tmp_path, {"learn/cat": 2, "learn/dog": 2, "check/cat": 2, "check/dog": 2})
    (note,) = scan_folder(tmp_path).notes
    assert note.endswith("; if those are the classes, call the folders above them train and val")


def test_a_class_may_have_a_folder_for_its_images(tmp_path):  # as in Tiny ImageNet
    make_folder(tmp_path, {"cat/images": 5, "dog/images": 5})
    assert not scan_folder(tmp_path).notes


def test_folder_in_a_folder_as_archives_unpack_is_named(tmp_path):
    make_folder(tmp_path, {"photos/cat": 2, "photos/dog": 2})
    with pytest.raises(DataError, match=f"its only folder photos holds .*did you mean {tmp_path / 'photos'}"):
        scan_folder(tmp_path)
    # a network that knows the class finds it
    assert len(scan_folder(tmp_path, split=SplitRule(class_names=("cats", "photos"))).train) == 3


def test_val_goes_before_test(tmp_path):
    make_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "test/cat": 4, "val/cat": 1, "val/dog": 1})
    assert names(scan_folder(tmp_path).val, tmp_path) == ["val/cat/000.png", "val/dog/000.png"]


def test_one_folder_is_split_by_class_whatever_the_order_on_disk(tmp_path):
    counts = {"cat": 20, "dog": 10, "emu": 5}
    one = scan_folder(make_folder(tmp_path / "one", counts))
    other = scan_folder(make_folder(tmp_path / "other", counts, order=-1))
    assert names(one.val, tmp_path / "one") == names(other.val, tmp_path / "other")
    assert names(one.train, tmp_path / "one") == names(other.train, tmp_path / "other")
    assert one.fingerprint == other.fingerprint != ""
    labels = [label for _, label in one.val]
    assert [labels.count(label) for label in range(3)] == [4, 2, 1]
    assert not set(names(one.val, tmp_path / "one")) & set(names(one.train, tmp_path / "one"))
    assert len(one.val) + len(one.train) == 35


def test_train_without_val_is_split(tmp_path):
    make_folder(tmp_path, {"train/cat": 5, "train/dog": 5})
    found = scan_folder(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert len(found.val) == 2


def test_single_image_is_for_training_and_said(tmp_path):
    make_folder(tmp_path, {"cat": 5, "dog": 1})
    found = scan_folder(tmp_path)
    assert "dog/000.png" in names(found.train, tmp_path)
    assert [label for _, label in found.val] == [0]
    assert any("only image of 'dog'" in note for note in found.notes)


def test_empty_class_is_left_out_and_said(tmp_path):
    make_folder(tmp_path, {"cat": 5, "dog": 5, "emu": 0})
    found = scan_folder(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert any("no images in 'emu'" in note for note in found.notes)


def test_loose_images_are_said(tmp_path):
    make_folder(tmp_path, {"cat": 5, "dog": 5})
    picture().save(tmp_path / "loose.png")
    assert any("1 images outside" in note for note in scan_folder(tmp_path).notes)


def test_class_without_validation_images_is_said(tmp_path):
    make_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1})
    assert any("no images of 'dog'" in note for note in scan_folder(tmp_path).notes)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no class folders; expected"),
        ({"cat": 0, "dog": 0}, "no images in its 2 class folders"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/emu": 1}, "has no class 'emu'; it has 'cat', 'dog'"),
        ({"val/cat": 2, "val/dog": 2}, "has val/ but no train/"),
    ],
)
def test_errors(tmp_path, counts, message):
    make_folder(tmp_path, counts)
    with pytest.raises(DataError, match=message) as error:
        scan_folder(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_images_without_class_folders(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 images but no class folders"):
        scan_folder(tmp_path)


def test_not_a_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        scan_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="not a folder"):
        scan_folder(tmp_path / "file")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_fraction_must_leave_something(tmp_path, fraction):
    make_folder(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="between 0 and 1"):
        scan_folder(tmp_path, split=SplitRule(fraction))


def test_classes_of_a_network_decide_the_labels(tmp_path):
    make_folder(tmp_path, {"cat": 4, "dog": 4})
    found = scan_folder(tmp_path, split=SplitRule(class_names=("emu", "dog", "cat")))
    assert {(path.split("/")[-2], label) for path, label in found.train} == {("cat", 2), ("dog", 1)}
    assert any("no images of 'emu'" in note for note in found.notes)
    with pytest.raises(DataError, match="the network has no class 'cat'"):
        scan_folder(tmp_path, split=SplitRule(class_names=("emu", "dog")))


def test_a_class_that_is_called_train_is_a_class(tmp_path):
    make_folder(tmp_path, {"bus": 5, "car": 5, "train": 5})
    assert scan_folder(tmp_path).class_names == ("bus", "car", "train")
