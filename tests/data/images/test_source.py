"""What DATA means, for every kind of source, and what they have in common."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from _sources import CLASSES, PER_CLASS, SPLIT_HERE, folder, shards, table

from _pictures import make_folder, picture
from ctxvision.data import BadImageError, DataError, DigitsData, ImageData, find_images, open_data, read_image

SOURCES = pytest.mark.parametrize("kind", SPLIT_HERE)
OPTIONS = {"image_size": 16, "batch_size": 6}


def train_batches(data, skip=0, epoch=1):
    loader = data.train_dataloader()
    loader.sampler.start_at(epoch, skip * data.batch_size)
    try:
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]
    finally:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()


def val_batches(data):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]


@SOURCES
def test_every_image_once_in_its_class(tmp_path, kind):
    data = open_data(SPLIT_HERE[kind](tmp_path), eval_split="all", **OPTIONS)
    images, targets = (torch.cat(parts) for parts in zip(*val_batches(data), strict=True))
    assert torch.bincount(targets).tolist() == [PER_CLASS] * 2
    # red cats, green dogs
    assert ((images[:, 0] > images[:, 1]).float().mean((1, 2)) > 0.9).tolist() == (targets == 0).tolist()
    assert len({image.numpy().tobytes() for image in images}) == 2 * PER_CLASS
    assert data.spec.train_counts == (16, 16)


@SOURCES
def test_network_s_spec_holds_out_the_same_images(tmp_path, kind):
    source = SPLIT_HERE[kind](tmp_path)
    trained = open_data(source, val_fraction=0.3, split_seed=5, **OPTIONS)
    again = open_data(source, spec=trained.spec)
    assert again.eval_samples == trained.eval_samples
    assert again.fingerprint == trained.spec.fingerprint != ""
    assert len(again.eval_samples) == 12
    other = open_data(source, val_fraction=0.3, split_seed=6, **OPTIONS)
    assert other.eval_samples != trained.eval_samples


@pytest.mark.process
@SOURCES
def test_an_epoch_resumes_to_the_bit_with_any_workers(tmp_path, kind):
    def opened(workers):
        return open_data(
            source,
            workers=workers,
            seed=3,
            repeats=2,
            auto_augment="rand-m9-mstd0.5",
            random_erasing=0.5,
            **OPTIONS,
        )

    source = SPLIT_HERE[kind](tmp_path)
    whole = train_batches(opened(0))
    rest = train_batches(opened(2), skip=2)
    assert len(whole) == 5
    assert len(rest) == 3
    for (images, targets), (images_again, targets_again) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(targets, targets_again)


@SOURCES
def test_openers_reach_workers_that_are_not_forked(tmp_path, kind):
    contents = find_images(SPLIT_HERE[kind](tmp_path))
    sent = pickle.loads(pickle.dumps(contents.open_image))
    for name, _ in contents.val:
        assert read_image(sent(name)).tobytes() == read_image(contents.open_image(name)).tobytes()


def vanish_file(source):
    victim = Path(source) / "dog" / "007.png"
    victim.unlink()
    return {str(victim)}


def vanish_row(source):
    victim = Path(source).parent / "dog" / "007.png"
    victim.unlink()
    return {str(victim)}


def vanish_shard(source):
    os.unlink(source.replace("{00..01}", "01"))
    return 20


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
@pytest.mark.parametrize(("make", "vanish"), [(folder, vanish_file), (table, vanish_row), (shards, vanish_shard)])
def test_what_vanishes_after_listing_is_reported(tmp_path, make, vanish, workers, caplog):
    source = make(tmp_path)
    patient, strict = (
        ImageData(source, eval_split="all", strict=strict, workers=workers, **OPTIONS) for strict in (False, True)
    )
    gone = vanish(source)
    assert sum(len(images) for images, _ in val_batches(patient)) == 40 - (gone if isinstance(gone, int) else 1)
    assert set(patient.bad_images.values()) == {"no such file or directory"}
    if isinstance(gone, set):
        assert set(patient.bad_images) == gone
        assert f"skipped {gone.pop()}: no such file or directory" in caplog.text
    else:
        assert all("photos-01.tar::" in name for name in patient.bad_images)
    with pytest.raises(BadImageError, match="no such file or directory"):
        val_batches(strict)


def test_overwritten_shard_is_reported(tmp_path):
    data = ImageData(shards(tmp_path), eval_split="all", **OPTIONS)
    path = tmp_path / "photos-00.tar"
    path.write_bytes(path.read_bytes()[:20000])
    kept = sum(len(images) for images, _ in val_batches(data))
    assert 20 < kept < 40
    assert set(data.bad_images.values()) == {"the shard is truncated"}
    assert len(data.bad_images) == 40 - kept


def test_strict_reaches_the_listing(tmp_path):
    source = table(tmp_path)
    (tmp_path / "dog" / "007.png").unlink()
    assert any("does not exist" in note for note in open_data(source, **OPTIONS).notes)
    with pytest.raises(DataError, match="does not exist"):
        open_data(source, strict=True, **OPTIONS)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["data/cifar-10-batches-py/test_batch"], "did you mean cifar10:data?"),
        (["data/cifar-100-binary/test.bin"], "did you mean cifar100:data?"),
        (["data/dataset_dict.json"], "did you mean hf:data?"),
        (["data/data/train-00.parquet"], "did you mean hf:data?"),
        (["data/a-00.tar", "data/a-01.tar"], "did you mean the shards data/*.tar?"),
        (["data/labels.csv"], "did you mean data/labels.csv?"),
        (["data/train.parquet"], "did you mean hf:data?"),
    ],
)
def test_folder_for_another_kind_of_source(tmp_path, monkeypatch, files, hint):
    monkeypatch.chdir(tmp_path)
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    with pytest.raises(DataError) as error:
        find_images("data")
    assert str(error.value).endswith(hint)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.zip", "a.zip: not a folder; unpack the archive first"),
        ("a.parquet", "a.parquet: not a folder; did you mean hf:a.parquet?"),
        ("a.txt", "a.txt: not a folder, and neither .csv, .tsv nor .tar"),
    ],
)
def test_file_that_is_no_source(tmp_path, monkeypatch, file, message):
    monkeypatch.chdir(tmp_path)
    Path(file).touch()
    with pytest.raises(DataError) as error:
        find_images(file)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("photos#label", "expected NAME=VALUE after '#', got 'label'"),
        ("photos#a=b,=c", "got '=c'"),
        ("photos#label=x", "photos: no option 'label' after '#'; it has none"),
        ("cifar10:photos#label=x", "no option 'label'"),
        ("photos.csv#image=x", "no option 'image' after '#'; it has path, label, split"),
    ],
)
def test_wrong_options(data, message):
    with pytest.raises(DataError) as error:
        find_images(data)
    assert message in str(error.value)


def test_number_sign_in_the_name_of_a_folder(tmp_path):
    make_folder(tmp_path / "photos #2=b", dict.fromkeys(CLASSES, 2))
    assert len(find_images(tmp_path / "photos #2=b").train) == 2


def test_colon_in_the_name_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos:old", dict.fromkeys(CLASSES, 2))
    assert len(find_images("photos:old").train) == 2


def test_digits_take_the_same_options():
    data = open_data(
        "digits", workers=4, prefetch=2, strict=True, image_size=None, batch_size=32, color_jitter=0.0
    )
    assert isinstance(data, DigitsData)
    assert data.batch_size == 32
    assert sum(data.spec.train_counts) == data.batches_per_epoch * 32 + 1438 % 32
    with pytest.raises(DataError, match="digits have their own augmentation"):
        open_data("digits", auto_augment="rand-m9")


def test_train_and_val_folder_through_the_opener(tmp_path):
    make_folder(tmp_path, {"train/cat": 30, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    with pytest.raises(DataError, match="auto_augment 'rnd-m9': no policy of timm such as rand-m9"):
        open_data(str(tmp_path), auto_augment="rnd-m9")
    data = open_data(str(tmp_path), workers=None, image_size=None)
    assert data.spec.input_size == (3, 224, 224)
    assert data.spec.train_counts == (30, 2)
    assert any("15-fold" in note for note in data.notes)
    picture("emu").save(tmp_path / "val" / "x.png")
    shutil.copytree(tmp_path / "val" / "dog", tmp_path / "val" / "emu")
    with pytest.raises(DataError, match="has no class 'emu'"):
        open_data(str(tmp_path))
