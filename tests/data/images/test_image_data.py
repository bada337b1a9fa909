"""Batches from image folders: bad files, augmentation, order, sharing."""

import logging

import pytest
import torch
from PIL import Image

from _pictures import BAD, add_bad_files, make_folder
from ctxvision.data import BadImageError, DataError, DataSpec, ImageData

BOTH = {"train/cat": 9, "train/dog": 9, "val/cat": 5, "val/dog": 5}
WORKERS = pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])


def folder_data(root, **options):
    return ImageData(root, image_size=16, **{"batch_size": 4, **options})


def batches(data, kind):
    """What a task gets."""
    loader = {"train": data.train_dataloader, "val": data.val_dataloader}[kind]()
    try:
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]
    finally:
        if loader._iterator is not None:  # left to the garbage collector, workers take ten seconds to end
            loader._iterator._shutdown_workers()


def test_shapes_and_classes(tmp_path):
    data = folder_data(make_folder(tmp_path, BOTH))
    train, val = batches(data, "train"), batches(data, "val")
    assert [tuple(images.shape) for images, _ in train] == [(4, 3, 16, 16)] * 4  # 18 images: the rest is left out
    assert data.batches_per_epoch == 4
    assert [len(images) for images, _ in val] == [4, 4, 2]
    assert torch.cat([targets for _, targets in val]).tolist() == [0] * 5 + [1] * 5
    # red cats, green dogs
    images, targets = torch.cat([i for i, _ in val]), torch.cat([t for _, t in val])
    assert ((images[:, 0] > images[:, 1]).float().mean((1, 2)) > 0.9).tolist() == (targets == 0).tolist()


def test_small_set_is_one_small_batch(tmp_path):
    data = folder_data(make_folder(tmp_path, BOTH), batch_size=64)
    assert [len(images) for images, _ in batches(data, "train")] == [18]
    assert data.batches_per_epoch == 1


@WORKERS
def test_bad_images_are_left_out_of_validation(tmp_path, workers, caplog):
    make_folder(tmp_path, BOTH)
    bad = add_bad_files(tmp_path / "val" / "dog")
    data = folder_data(tmp_path, workers=workers)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # the second pass names nothing again
            images = torch.cat([images for images, _ in batches(data, "val") if len(images)])
    assert len(images) == 10
    assert sorted(data.bad_images) == bad
    assert len(caplog.records) == len(BAD)
    assert all(any(path in record.getMessage() for record in caplog.records) for path in bad)


@WORKERS
def test_other_images_take_the_place_of_bad_ones_in_training(tmp_path, workers):
    make_folder(tmp_path, BOTH)
    bad = add_bad_files(tmp_path / "train" / "dog")
    data = folder_data(tmp_path, workers=workers)
    sizes = {len(images) for images, _ in batches(data, "train")}
    assert sizes <= {0, 4}
    assert set(data.bad_images) <= set(bad)
    assert len(data.bad_images) >= len(bad) - 3  # all but those in the batch that was left out


@WORKERS
def test_batch_of_bad_images_is_empty(tmp_path, workers):
    make_folder(tmp_path, {"train/cat": 9, "train/dog": 9, "val/cat": 4})
    add_bad_files(tmp_path / "val" / "cat")
    data = folder_data(tmp_path, batch_size=1, workers=workers)
    val = batches(data, "val")
    assert sorted(len(images) for images, _ in val) == [0] * len(BAD) + [1] * 4
    assert all(targets.dtype == torch.int64 for _, targets in val)


@WORKERS
def test_strict_stops_at_the_first(tmp_path, workers):
    make_folder(tmp_path, BOTH)
    bad = add_bad_files(tmp_path / "val" / "cat")
    with pytest.raises(BadImageError) as error:
        batches(folder_data(tmp_path, strict=True, workers=workers), "val")
    assert error.value.path in bad
    assert "\n" not in str(error.value)


@pytest.mark.process
def test_epoch_does_not_depend_on_the_workers(tmp_path):
    make_folder(tmp_path, BOTH)
    runs = []
    for workers in (0, 1, 2):
        data = folder_data(tmp_path, workers=workers, auto_augment="rand-m9-mstd0.5", random_erasing=0.5, seed=3)
        loader = data.train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            torch.rand(workers)  # what else draws random numbers must not matter
            epochs.append(torch.cat([batch.images for batch in loader]))
        assert not torch.equal(*epochs)
        runs.append(torch.cat(epochs))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_seed_changes_the_epoch(tmp_path):
    make_folder(tmp_path, BOTH)
    one, two = (torch.cat([i for i, _ in batches(folder_data(tmp_path, seed=s), "train")]) for s in (0, 1))
    assert not torch.equal(one, two)


def test_grey_input(tmp_path):
    data = folder_data(make_folder(tmp_path, BOTH), in_chans=1)
    assert batches(data, "train")[0][0].shape == (4, 1, 16, 16)
    assert batches(data, "val")[0][0].shape == (4, 1, 16, 16)


def test_spec_of_a_network_decides(tmp_path):
    make_folder(tmp_path, {"cat": 10, "dog": 10})
    spec = DataSpec(("dog", "cat"), (3, 24, 24), (0.5,) * 3, (0.5,) * 3, val_fraction=0.5, split_seed=1)
    data = folder_data(tmp_path, spec=spec)
    assert data.spec is spec
    assert batches(data, "val")[0][0].shape[-1] == 24
    assert torch.cat([targets for _, targets in batches(data, "val")]).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(("split", "count"), [("val", 4), ("train", 16), ("all", 20)])
def test_splits(tmp_path, split, count):
    make_folder(tmp_path, {"cat": 10, "dog": 10})
    data = folder_data(tmp_path, eval_split=split)
    assert sum(len(images) for images, _ in batches(data, "val")) == count


def test_one_class_is_not_enough(tmp_path):
    make_folder(tmp_path, {"cat": 10})
    with pytest.raises(DataError, match="at least two classes; this has only 'cat'") as refused:
        folder_data(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_nothing_to_validate_on(tmp_path):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="no images to validate on"):
        folder_data(tmp_path)


def test_evaluation_equals_timm(tmp_path):
    """Short side to 24 / 0.875, bicubic, centre 24 × 24: written out with PIL and torchvision."""
    import numpy as np
    from PIL import Image

    make_folder(tmp_path, BOTH)
    data = ImageData(tmp_path, image_size=24)
    got = batches(data, "val")[0][0][0]
    image = Image.open(data.eval_samples[0][0])  # 24 × 20
    image = image.resize((int(27 * 24 / 20), 27), Image.Resampling.BICUBIC)
    left, top = round((image.width - 24) / 2), round((27 - 24) / 2)
    crop = torch.from_numpy(np.array(image.crop((left, top, left + 24, top + 24)))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.spec.mean, data.spec.std))
    torch.testing.assert_close(got, (crop - mean) / std)


@WORKERS
def test_tiny_and_long_images_are_trained_on(tmp_path, workers):
    make_folder(tmp_path, BOTH)
    for name in ("train/cat", "val/cat"):
        Image.new("RGB", (1, 1), "red").save(tmp_path / name / "one.png")
        Image.new("RGB", (20000, 100), "red").save(tmp_path / name / "long.png")
    data = folder_data(tmp_path, batch_size=1, workers=workers, strict=True)
    assert sum(len(images) for images, _ in batches(data, "train")) == 20
    one = data.eval_samples.index((str(tmp_path / "val" / "cat" / "one.png"), 0))
    red = (torch.tensor([1.0, 0, 0]) - torch.tensor(data.spec.mean)) / torch.tensor(data.spec.std)
    torch.testing.assert_close(batches(data, "val")[one][0][0], red.view(3, 1, 1).expand(3, 16, 16))


@pytest.mark.process
def test_workers_keep_batches_ready(tmp_path):
    make_folder(tmp_path, BOTH)
    loader = folder_data(tmp_path, workers=2, prefetch=3).train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (2, 3, True)
    loader = folder_data(tmp_path).train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (0, None, False)


def test_copies_of_an_image_are_augmented_differently(tmp_path):
    data = folder_data(make_folder(tmp_path, BOTH), repeats=3, batch_size=3)
    for images, targets in batches(data, "train"):
        assert len(set(targets.tolist())) == 1
        assert not torch.equal(images[0], images[1])
        assert not torch.equal(images[1], images[2])


def test_class_counts_travel_in_the_spec(tmp_path):
    data = folder_data(make_folder(tmp_path, {"cat": 40, "dog": 3}))
    assert data.spec.train_counts == (32, 2)
    assert DataSpec.from_dict(data.spec.to_dict()).train_counts == (32, 2)
    assert any("16-fold" in note for note in data.notes)
