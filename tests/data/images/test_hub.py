"""The package datasets, without its hub: from disk, Parquet and folders, and what may be wrong with each."""

import re
import sys

import pytest
from _sources import hub_dataset, parquet, saved
from huggingface_hub import constants

from _pictures import make_folder, picture, png_bytes
from ctxvision._extras import install_command
from ctxvision.data import DataError, find_images, read_image
from ctxvision.data.images import hub

PNG = png_bytes(picture())


def rows(*labels):
    return [(label, PNG) for label in labels]


def splits(root, **parts):
    import datasets

    datasets.DatasetDict(parts).save_to_disk(root / "d")
    return f"hf:{root / 'd'}"


def test_splits_and_names_of_the_classes(tmp_path):
    names = ("zebra", "ape", "bee")
    found = find_images(
        splits(
            tmp_path,
            test=hub_dataset(rows(0), names),
            validation=hub_dataset(rows(1, 0), names),
            train=hub_dataset(rows(0, 1, 0), names),
        )
    )
    assert found.class_names == ("zebra", "ape")  # the order of the data set
    assert found.train == [("train/0", 0), ("train/2", 0), ("train/1", 1)]
    assert found.val == [("validation/1", 0), ("validation/0", 1)]
    assert found.fingerprint == ""
    assert any("no images in 'bee'" in note for note in found.notes)


def test_unlabelled_test_split_is_not_validated_on(tmp_path):
    found = find_images(splits(tmp_path, train=hub_dataset(rows(0, 1) * 5), test=hub_dataset(rows(-1, -1))))
    assert len(found.val) == 2
    assert found.fingerprint
    assert any("2 of 2 rows have no label" in note for note in found.notes)


def test_test_split_is_validated_on_and_said(tmp_path):
    data = splits(tmp_path, train=hub_dataset(rows(0, 1)), test=hub_dataset(rows(0, 1)))
    found = find_images(data)
    assert found.val == [("test/0", 0), ("test/1", 1)]
    assert found.notes == [f"validating on {data} (test)"]


def test_splits_can_be_named(tmp_path):
    data = splits(tmp_path, first=hub_dataset(rows(0, 1, 1)), second=hub_dataset(rows(0, 1)))
    assert find_images(data).fingerprint  # neither is for validation: the first is split
    found = find_images(f"{data}#train=second,val=first")
    assert (len(found.train), len(found.val)) == (2, 3)
    with pytest.raises(DataError, match="no split 'third'; it has first, second"):
        find_images(f"{data}#val=third")


def test_parquet_and_saved_hold_the_same_images(tmp_path):
    one, other = find_images(parquet(tmp_path)), find_images(saved(tmp_path))
    assert one.class_names == other.class_names == ("cat", "dog")
    assert (one.train, one.val) == (other.train, other.val)
    for name, _ in one.train[:3]:
        assert read_image(one.open_image(name)).tobytes() == read_image(other.open_image(name)).tobytes()


def test_folder_of_images(tmp_path):
    make_folder(tmp_path, {"train/cat": 3, "train/dog": 3, "validation/cat": 1, "validation/dog": 1})
    found = find_images(f"hf:{tmp_path}")
    assert found.train_counts == (3, 3)
    assert len(found.val) == 2
    name, _ = found.val[1]
    assert read_image(found.open_image(name)).tobytes() == picture("dog", 0).tobytes()


def columns(root, **values):
    import datasets

    datasets.Dataset.from_dict(values).save_to_disk(root / "d")
    return f"hf:{root / 'd'}"


def test_columns_are_found_by_name_or_named(tmp_path):
    data = columns(tmp_path, img=[PNG] * 4, fine=["a", "b", "a", "b"], coarse=[10, 9, 10, 9])
    assert find_images(f"{data}#label=fine").class_names == ("a", "b")
    assert find_images(f"{data}#label=coarse,image=img").class_names == ("9", "10")
    with pytest.raises(DataError, match=r"no column called label or labels among img, fine, coarse; .*#label"):
        find_images(data)
    with pytest.raises(DataError, match="no column 'x'"):
        find_images(f"{data}#label=x")
    with pytest.raises(DataError, match="no option 'classes'"):
        find_images(f"{data}#classes=x")


def test_labels_must_be_one_class_each(tmp_path):
    with pytest.raises(DataError, match="column 'label' holds list, not one class"):
        find_images(columns(tmp_path, image=[PNG], label=[[0, 1]]))


def test_paths_and_nothing_in_the_image_column(tmp_path):
    picture().save(tmp_path / "a.png")
    found = find_images(columns(tmp_path, image=[str(tmp_path / "a.png"), None], label=["a", "b"]))
    assert read_image(found.open_image("train/0")).tobytes() == picture().tobytes()
    with pytest.raises(ValueError, match="neither bytes nor a path"):
        found.open_image("train/1")


@pytest.mark.parametrize("name", ["bytes.parquet", "table.txt", "empty/"])
def test_what_cannot_be_loaded(tmp_path, name):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"not a table")
    with pytest.raises(DataError, match="cannot be loaded") as error:
        find_images(f"hf:{path}")
    assert "\n" not in str(error.value)
    assert "network" not in str(error.value)


def test_hub_that_fails(monkeypatch):
    import datasets

    monkeypatch.setattr(hub, "why_not_asked", lambda path: "")

    calls = []

    def offline(*arguments):
        calls.append(arguments)
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    for data in ("hf:someone/beans", "hf:someone/beans:small"):
        with pytest.raises(DataError, match=r"^hf:someone/beans.*reach the hub\); a name on the hub needs"):
            find_images(data)
    assert calls == [("someone/beans", None), ("someone/beans", "small")]


def test_a_hub_that_cannot_be_asked_is_not_asked_again(monkeypatch):
    """The client would try for a minute, and write a line for each time."""
    import datasets

    asked = []
    monkeypatch.setattr(hub, "why_not_asked", lambda path: asked.append(path) or "the hub answers 503")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"{constants.ENDPOINT}/")
    advice = "; a name on the hub needs a network, a path must exist"
    with pytest.raises(DataError) as caught:
        find_images("hf:someone/beans")
    assert str(caught.value) == (
        f"hf:someone/beans: cannot be loaded (the hub answers 503, and it is not in the cache){advice}"
    )
    assert asked == ["datasets/someone/beans/resolve/main/README.md"]
    assert not datasets.config.HF_ENDPOINT.endswith("/")

    def no_client(*_):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", no_client)
        with pytest.raises(DataError, match="the hub answers 503"):  # no bug of ours
            find_images("hf:someone/beans")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_DATASETS_OFFLINE is set, and it is not in the cache"):
        find_images("hf:someone/beans")


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match="^hf:x: needs the package datasets: " + re.escape(install_command("data")) + "$"
    ):
        find_images("hf:x")
