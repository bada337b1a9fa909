"""ImageNet as it is unpacked: by Kaggle, by hand, by torchvision."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from _pictures import make_folder, picture
from ctxvision.data import DataError, SplitRule, find_images

TENCH, SHARK, CRANE = "n01440764", "n01484850", "n02012849"
WORDS = f"{TENCH} tench, Tinca tinca\n{SHARK} great white shark, white shark\n{CRANE} crane\n"
NAMES = (f"tench ({TENCH})", f"great white shark ({SHARK})", f"crane ({CRANE})")
TRUTH = [CRANE, TENCH, SHARK, TENCH]  # of ILSVRC2012_val_00000001 to 4


def imagenet(root, flat=True):
    make_folder(root, {f"train/{TENCH}": 3, f"train/{SHARK}": 2, f"train/{CRANE}": 2})
    (root / "val").mkdir()
    for number, synset in enumerate(TRUTH, 1):
        folder = root / "val" / ("" if flat else synset)
        folder.mkdir(exist_ok=True)
        picture().save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


def devkit(folder):
    """The parts of meta.mat that are read: number, synset, words, gloss, number of children."""
    folder.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(1, CRANE, "crane", "", 0), (2, SHARK, "great white shark, white shark", "", 0),
            (3, TENCH, "tench, Tinca tinca", "", 0), (1001, "n00001740", "entity", "", 3)]  # fmt: skip
    savemat(folder / "meta.mat", {"synsets": np.array(rows, kind)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n3\n2\n3\n")


def kaggle(folder):
    lines = [f"ILSVRC2012_val_{n:08d},{synset} 1 2 3 4 {synset} 5 6 7 8" for n, synset in enumerate(TRUTH, 1)]
    folder.joinpath("LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "\n".join(lines[::-1]) + "\n"
    )
    folder.joinpath("LOC_synset_mapping.txt").write_text(WORDS)


def labels(found):
    return {path[-9:-5]: found.class_names[label][-10:-1] for path, label in found.val}


EXPECTED = {f"{number:04d}": synset for number, synset in enumerate(TRUTH, 1)}


def test_kaggle_archive(tmp_path):
    imagenet(tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
    make_folder(tmp_path, {"ILSVRC/Data/CLS-LOC/test": 3})
    kaggle(tmp_path)
    for root in (tmp_path, tmp_path / "ILSVRC", tmp_path / "ILSVRC" / "Data" / "CLS-LOC"):
        found = find_images(root)
        assert found.class_names == NAMES
        assert labels(found) == EXPECTED
        assert found.train_counts == (3, 2, 2)
        assert not found.notes


@pytest.mark.parametrize("place", [".", "ILSVRC2012_devkit_t12/data"])
def test_development_kit(tmp_path, place):
    imagenet(tmp_path)
    devkit(tmp_path / place / "kit" if place == "." else tmp_path / place)
    if place == ".":
        for file in (tmp_path / "kit").iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / "kit").rmdir()
    found = find_images(tmp_path)
    assert found.class_names == NAMES
    assert labels(found) == EXPECTED


def test_list_of_synsets_and_torchvision_file(tmp_path):
    imagenet(tmp_path / "a")
    (tmp_path / "a" / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(TRUTH))
    imagenet(tmp_path / "b")
    torch.save(({TENCH: ("tench",)}, TRUTH), tmp_path / "b" / "meta.bin")
    for name in "ab":
        found = find_images(tmp_path / name)
        assert found.class_names == (TENCH, SHARK, CRANE)  # no words at hand
        assert {path[-9:-5]: found.class_names[label] for path, label in found.val} == EXPECTED


def test_class_folders_need_no_labels(tmp_path):
    imagenet(tmp_path, flat=False)
    (tmp_path / "LOC_synset_mapping.txt").write_text(WORDS)
    found = find_images(tmp_path)
    assert found.class_names == NAMES
    assert labels(found) == EXPECTED


@pytest.mark.parametrize("has_words", [False, True])
@pytest.mark.parametrize("class_names", [NAMES[::-1], (CRANE, SHARK, TENCH)])
def test_network_s_names_are_found_by_synset(tmp_path, has_words, class_names):
    imagenet(tmp_path, flat=False)
    if has_words:
        (tmp_path / "LOC_synset_mapping.txt").write_text(WORDS)
    found = find_images(tmp_path, split=SplitRule(class_names=class_names))
    assert found.class_names == class_names
    assert {path[-9:-5]: label for path, label in found.val} == {"0001": 0, "0002": 2, "0003": 1, "0004": 2}


def test_flat_without_labels_says_what_is_missing(tmp_path):
    imagenet(tmp_path)
    with pytest.raises(DataError, match="no file says which image is of which class; put one of LOC_val_solution"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("imagenet_2012_validation_synset_labels.txt", "\n".join(TRUTH[:3]), "3 labels for the 4 images"),
        (
            "imagenet_2012_validation_synset_labels.txt",
            "\n".join([*TRUTH[:3], "n00000001"]),
            "no class 'n00000001'",
        ),
        (
            "LOC_val_solution.csv",
            f"ImageId,P\nILSVRC2012_val_00000001,{TENCH} 1 1 1 1",
            "no label for .*and 2 more",
        ),
        ("meta.mat", "garbage", "not the development kit's meta.mat"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, file, text, message):
    imagenet(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message) as error:
        find_images(tmp_path)
    assert "\n" not in str(error.value)
