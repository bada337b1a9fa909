"""Images with masks: folders, the embedded scenes, order, bad files."""

import numpy as np
import pytest
import torch
from PIL import Image

from _masks import NAMES, make_pixels, scene
from _pictures import BAD
from ctxvision.data import BadImageError, DataError, SegmentationData, SegmentationSpec
from ctxvision.data.embedded.scenes import make_scene
from ctxvision.data.segmentation.data import find_pixels
from ctxvision.data.segmentation.source import palette

PARTS = {"train": 6, "val": 4}
WORKERS = pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])


def batches(loader, data):
    try:
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]
    finally:
        if loader._iterator is not None:  # left to the garbage collector, workers take ten seconds to end
            loader._iterator._shutdown_workers()


def validation(data):
    return batches(data.val_dataloader(), data)


def test_images_and_masks_arrive_as_they_are(tmp_path):
    data = SegmentationData(make_pixels(tmp_path, PARTS), eval_batch_size=3)
    assert data.spec.class_names == NAMES
    assert data.spec.input_size == (3, 20, 24)  # of the first image
    got = validation(data)
    assert [len(images) for images, _ in got] == [3, 1]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.spec.mean, data.spec.std))
    for index, (image, mask) in enumerate(pair for batch in got for pair in zip(*batch, strict=True)):
        picture, classes = scene(index)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, (expected - mean) / std)
        assert torch.equal(mask, torch.from_numpy(classes))


def test_training_batches_have_the_crop_s_size(tmp_path):
    data = SegmentationData(make_pixels(tmp_path, PARTS), crop_size=(16, 40), batch_size=4)
    ((images, masks),) = batches(data.train_dataloader(), data)
    assert images.shape == (4, 3, 16, 40)
    assert masks.shape == (4, 16, 40)
    assert set(masks.unique().tolist()) <= {0, 1, 2, 255}
    assert data.batches_per_epoch == 1


def test_folder_without_parts_is_split_reproducibly(tmp_path):
    make_pixels(tmp_path, {".": 10})
    data = SegmentationData(tmp_path, val_fraction=0.3, split_seed=1)
    assert (len(data.train_samples), len(data.eval_samples)) == (7, 3)
    again = SegmentationData(tmp_path, spec=SegmentationSpec.from_dict(data.spec.to_dict()))
    assert again.eval_samples == data.eval_samples
    assert again.fingerprint == data.fingerprint == data.spec.fingerprint != ""
    everything = SegmentationData(tmp_path, eval_split="all")
    assert len(everything.eval_samples) == 10


def test_masks_with_a_palette_and_of_one_bit(tmp_path):
    make_pixels(tmp_path, PARTS)
    classes = scene(0)[1]
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette([9, 8, 7] * 256)
    picture.save(tmp_path / "masks/val/000.png")
    Image.fromarray(scene(1)[1] > 0).save(tmp_path / "masks/val/001.png")
    got = validation(SegmentationData(tmp_path))
    assert torch.equal(got[0][1][0], torch.from_numpy(classes))
    assert torch.equal(got[1][1][0], torch.from_numpy(scene(1)[1] > 0).byte())


@pytest.mark.process
def test_epoch_depends_on_seed_and_number_alone(tmp_path):
    make_pixels(tmp_path, PARTS)
    runs = []
    for workers in (0, 2):
        data = SegmentationData(tmp_path, workers=workers, seed=3, batch_size=2)
        loader = data.train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            torch.rand(workers)  # what else draws random numbers must not matter
            epochs.append([(batch.images, batch.targets) for batch in loader])
        if workers:
            loader._iterator._shutdown_workers()
        runs.append(epochs)
    for one, two in zip(*runs, strict=True):
        for (images, masks), (others, other_masks) in zip(one, two, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(masks, other_masks)
    assert not torch.equal(runs[0][0][0][0], runs[0][1][0][0])
    # continued in the middle of the second epoch
    data = SegmentationData(tmp_path, seed=3, batch_size=2)
    loader = data.train_dataloader()
    loader.sampler.start_at(1, skip=2)
    rest = batches(loader, data)
    assert len(rest) == 2
    assert torch.equal(rest[0][0], runs[0][1][1][0])


def spoil_text(root):
    (root / "masks/val/000.png").write_bytes(b"this is not a picture\n")


def spoil_size(root):
    Image.fromarray(scene(0, (20, 20))[1]).save(root / "masks/val/000.png")


def spoil_label(root):
    mask = scene(0)[1]
    mask[3, 3] = 3
    Image.fromarray(mask).save(root / "masks/val/000.png")


def spoil_colour(root):
    scene(0)[0].save(root / "masks/val/000.png")


def spoil_truncated_mask(root):
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (20, 24)).astype(np.uint8)).save(
        root / "masks/val/000.png"
    )
    data = (root / "masks/val/000.png").read_bytes()
    (root / "masks/val/000.png").write_bytes(data[:-40])


def spoil_wide_values(root):
    Image.fromarray(np.full((20, 24), 700, dtype=np.uint16)).save(root / "masks/val/000.png")


def spoil_image(root):
    (root / "images/val/000.png").write_bytes(BAD["truncated.png"][0])


def spoil_no_mask(root):
    (root / "masks/val/000.png").unlink()


def spoil_no_image(root):
    (root / "images/val/000.png").unlink()


def spoil_jpeg(root):
    (root / "masks/val/000.png").unlink()
    Image.fromarray(scene(0)[1]).save(root / "masks/val/000.jpg")


@WORKERS
@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (spoil_text, "masks", "not an image"),
        (spoil_size, "masks", "is 20 × 20 pixels, its image 24 × 20"),
        (spoil_label, "masks", "value 3 is none of the 3 classes, nor 255"),
        (spoil_colour, "masks", "a mask has one number for every pixel; this one is in colour (RGB)"),
        (spoil_truncated_mask, "masks", ""),
        (spoil_wide_values, "masks", "value 700 is none of the 3 classes, nor 255"),
        (spoil_image, "images", "truncated"),
        (spoil_no_mask, "images", "has no mask masks/val/000.png"),
        (spoil_no_image, "masks", "has no image"),
        (spoil_jpeg, "masks", "others change the values of pixels"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_file_is_named_counted_and_skipped_or_fatal(tmp_path, spoil, kind, reason, workers):
    make_pixels(tmp_path, PARTS)
    spoil(tmp_path)
    data = SegmentationData(tmp_path, workers=workers, eval_batch_size=2)
    assert sum(len(images) for images, _ in validation(data)) == 3
    bad = {path: why for path, why in data.bad_images.items() if f"{kind}/val/000" in path}
    assert len(bad) == 1
    assert reason in next(iter(bad.values()))
    assert len(data.bad_images) == (2 if spoil is spoil_jpeg else 1)  # and the image is without a mask
    with pytest.raises(BadImageError) as error:
        validation(SegmentationData(tmp_path, workers=workers, strict=True))
    assert "val/000" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_images_take_the_place_of_bad_ones_in_training(tmp_path):
    make_pixels(tmp_path, PARTS)
    (tmp_path / "masks/train/000.png").write_bytes(b"")
    data = SegmentationData(tmp_path, batch_size=6)
    ((images, masks),) = batches(data.train_dataloader(), data)
    assert len(images) == len(masks) == 6
    assert list(data.bad_images) == [str(tmp_path / "masks/train/000.png")]


def test_batch_of_bad_images_is_empty(tmp_path):
    make_pixels(tmp_path, {"train": 1, "val": 1})
    data = SegmentationData(tmp_path)
    (tmp_path / "masks/train/000.png").write_bytes(b"")
    ((images, masks),) = batches(data.train_dataloader(), data)
    assert len(images) == len(masks) == 0


def remove(*names):
    def change(root):
        for name in names:
            for path in sorted(root.glob(name), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    return change


def classes(text):
    return lambda root: (root / "classes.txt").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("masks/**/*", "masks"), "has no folder masks"),
        (remove("classes.txt"), r"classes.txt: no such file; it names the classes"),
        (remove("images/val/*", "images/val"), r"images/ has train/ but no val/"),
        (remove("images/val/*"), "no images with masks to validate on; 4 have no counterpart"),
        (remove("masks/train/*"), "no images with masks to train on; 6 have no counterpart"),
        (classes("sky\n\ntree\n"), "line 2 is empty"),
        (classes("sky\nsky\n"), "names 'sky' more than once"),
        (classes("sky\n"), "names 1 classes; there must be 2 to 255"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, change, message):
    make_pixels(tmp_path / "set", PARTS)
    change(tmp_path / "set")
    with pytest.raises(DataError, match=message):
        SegmentationData(tmp_path / "set")


def test_settings_that_cannot_be_used(tmp_path):
    make_pixels(tmp_path, PARTS)
    for options, message in [
        ({"crop_size": (4, 64)}, r"at least 8, got \[4, 64\]"),
        ({"crop_size": (64,)}, "crop_size must be two numbers"),
        ({"scale": (2.0, 0.5)}, "the smaller first"),
        ({"val_fraction": 0.0}, "between 0 and 1"),
        ({"spec": SegmentationSpec(("a", "b"), (3, 8, 8), (0,) * 3, (1,) * 3)}, "classes are 'a', 'b', not 'sky'"),
    ]:
        with pytest.raises(DataError, match=message):
            SegmentationData(tmp_path, **options)
    with pytest.raises(DataError, match="no such folder"):
        SegmentationData(tmp_path / "nothing")


def test_scenes_are_those_of_the_generator():
    data = SegmentationData("digits-scenes#train=3,val=2,size=64,seed=5")
    assert data.spec.class_names == ("background", *"0123456789")
    assert data.spec.input_size == (3, 64, 64)
    assert data.augmentation.flip == 0
    for index, (images, masks) in enumerate(validation(data)):
        expected = make_scene(5, index, 64, "val")
        assert torch.equal(masks[0], torch.from_numpy(expected.semantic))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.spec.mean, data.spec.std))
        pixels = (images[0] * std + mean).mul(255).round().byte()
        assert torch.equal(pixels, torch.from_numpy(expected.image).permute(2, 0, 1))
    with pytest.raises(DataError, match="size must be a whole number from 48 to 4096, got '47'"):
        find_pixels("digits-scenes#size=47")
    with pytest.raises(DataError, match="no option 'number'"):
        find_pixels("digits-scenes#number=4")


def test_spec_travels_as_plain_values():
    spec = SegmentationSpec(("a", "b"), (1, 8, 8), (0.5,), (0.2,))
    values = spec.to_dict()
    assert values["colors"] == [[0, 0, 0], [128, 0, 0]]
    assert SegmentationSpec.from_dict(values) == spec
    assert len(set(palette(255))) == 255
    with pytest.raises(DataError, match="not a data specification"):
        SegmentationSpec.from_dict({"classes": 3})
    with pytest.raises(DataError, match="2 to 255 classes, got 1"):
        SegmentationSpec(("a",), (1, 8, 8), (0.5,), (0.2,))
