"""Batches for detectors: targets, mirror images, orientation, order, bad files; the scenes as files."""

import json
import logging

import numpy as np
import pytest
import torch
from _coco import HEIGHT, WIDTH, content, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ctxvision.data import BadImageError, DataError, DetectionData, DetectionSpec, export_cityscapes, export_coco
from ctxvision.data.detection.data import DetectionDataset, flip_horizontally
from ctxvision.data.detection.source import scenes_set
from ctxvision.data.embedded.scenes import SceneOptions, make_scene
from ctxvision.data.sampler import AspectBatches

WORKERS = pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])


def batches(data, kind="val"):
    """What a task gets."""
    loader = {"train": data.train_dataloader, "val": data.val_dataloader}[kind]()
    try:
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]
    finally:
        if loader._iterator is not None:  # left to the garbage collector, workers take ten seconds to end
            loader._iterator._shutdown_workers()


def test_training_targets_leave_crowds_out(tmp_path):
    data = DetectionData(write(tmp_path), masks=True, batch_size=4, flip=0)
    ((images, targets),) = batches(data, "train")
    assert all(image.shape == (3, HEIGHT, WIDTH) and 0 <= image.min() <= image.max() <= 1 for image in images)
    by_id = {target["image_id"]: target for target in targets}
    assert {number: len(target["boxes"]) for number, target in by_id.items()} == {10: 1, 11: 1, 12: 0, 13: 0}
    assert by_id[10]["boxes"].tolist() == [[5, 6, 15, 26]]
    assert by_id[11]["labels"].tolist() == [2]
    assert by_id[11]["masks"][0].nonzero().max(0).values.tolist() == [39, 1]
    assert by_id[12]["masks"].shape == (0, HEIGHT, WIDTH)


def test_truth_for_the_metric_keeps_crowds(tmp_path):
    data = DetectionData(write(tmp_path), masks=True, batch_size=3)
    rows = {t["image_id"]: t["truth"] for _, targets in batches(data) for t in targets}
    assert [len(rows[i]) for i in (10, 11, 12, 13)] == [1, 1, 1, 0]
    (crowd,) = rows[12]
    assert (crowd["iscrowd"], crowd["area"], crowd["bbox"]) == (1, 400.0, [20, 0, 10, 40])
    assert isinstance(crowd["segmentation"]["counts"], str)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_mirrored_boxes_surround_mirrored_masks(height, width, seed):
    generator = np.random.default_rng(seed)
    mask = np.zeros((1, height, width), dtype=np.uint8)
    y, x = generator.integers(height), generator.integers(width)
    mask[0, y : y + generator.integers(1, 9), x : x + generator.integers(1, 9)] = 1
    rows, columns = np.flatnonzero(mask[0].any(1)), np.flatnonzero(mask[0].any(0))
    box = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=torch.float32)
    image = torch.from_numpy(generator.integers(0, 256, (3, height, width), dtype=np.uint8))
    flipped, target = flip_horizontally(image, {"boxes": box, "masks": torch.from_numpy(mask), "labels": 1})
    columns = np.flatnonzero(target["masks"][0].numpy().any(0))
    assert target["boxes"][0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    back, again = flip_horizontally(flipped, target)
    assert torch.equal(back, image)
    assert torch.equal(again["boxes"], box)


def test_flip_depends_on_seed_and_index_alone(tmp_path):
    samples = DetectionData(write(tmp_path)).train_samples
    dataset = DetectionDataset(samples, train=True, flip=0.5, seed=1)
    first = [dataset[i].image for i in range(40)]  # ten epochs
    torch.rand(3)
    assert all(torch.equal(image, dataset[i].image) for i, image in enumerate(first))
    plain = DetectionDataset(samples, train=True)
    mirrored = [not torch.equal(image, plain[i].image) for i, image in enumerate(first)]
    assert 8 < sum(mirrored) < 32


def test_digits_are_never_mirrored():
    assert DetectionData("digits-scenes#train=2,val=2,size=48", flip=0.5).flip == 0


shapes = st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.5]), min_size=1, max_size=60)


@given(shapes, st.integers(1, 7), st.integers(1, 3), st.integers(0, 3))
def test_processes_share_batches_of_one_orientation(ratios, batch_size, world_size, epoch):
    samplers = [
        AspectBatches(ratios, batch_size, seed=5, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    of_each = [list(sampler) for sampler in samplers]
    assert {len(found) for found in of_each} == {len(samplers[0])}
    seen = [index for found in of_each for batch in found for index in batch]
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(epoch * len(ratios), (epoch + 1) * len(ratios)))
    whole = [batch for found in of_each for batch in found]
    assert all(len(batch) == batch_size for batch in whole) or (len(whole) == 1 and len(ratios) < batch_size)
    mixed = [batch for batch in whole if len({ratios[i % len(ratios)] >= 1 for i in batch}) > 1]
    assert len(mixed) <= 1


def test_batches_continue_in_the_middle():
    ratios = [0.5, 1.5] * 20
    sampler = AspectBatches(ratios, 3, seed=0)
    sampler.set_epoch(2)
    whole = list(sampler)
    again = AspectBatches(ratios, 3, seed=0)
    again.start_at(2, 5)
    again.set_epoch(2)  # Lightning's
    assert list(again) == whole[5:]
    again.set_epoch(3)
    assert len(list(again)) == len(again)
    assert list(AspectBatches(ratios, 3, seed=1)) != list(AspectBatches(ratios, 3, seed=0))


@pytest.mark.process
def test_epoch_does_not_depend_on_the_workers(tmp_path):
    root = write(tmp_path)
    runs = [batches(DetectionData(root, batch_size=2, workers=w, masks=True, seed=4), "train") for w in (0, 2)]
    for (images, targets), (others, their_targets) in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))
        for one, two in zip(targets, their_targets, strict=True):
            assert one["image_id"] == two["image_id"]
            assert torch.equal(one["masks"], two["masks"])


@WORKERS
def test_bad_pictures_are_named_once_and_left_out(tmp_path, workers, caplog):
    root = write(tmp_path)
    (root / "val" / "000.png").write_bytes(b"nothing")
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(root / "val" / "001.png")
    data = DetectionData(root, workers=workers, batch_size=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            sizes = [len(images) for images, _ in batches(data)]
    assert sizes == [0, 0, 1, 1]
    assert len(data.bad_images) == len(caplog.records) == 2
    assert (
        "61 × 40 pixels large, its annotations are for 60 × 40" in data.bad_images[str(root / "val" / "001.png")]
    )
    with pytest.raises(BadImageError):
        batches(DetectionData(root, workers=workers, batch_size=1, strict=True))


def test_images_without_objects_can_be_left_out(tmp_path):
    root = write(tmp_path)
    assert len(DetectionData(root).train_samples) == 4
    data = DetectionData(root, empty_images=False)
    assert [image.id for image in data.train_samples.images] == [10, 11]  # one has nothing, one a crowd only
    assert "2 images without objects" in data.notes[-1]
    assert len(data.eval_samples) == 4


def test_nothing_to_train_on(tmp_path):
    nothing = content()
    nothing["annotations"] = []
    root = write(tmp_path, train=nothing)
    with pytest.raises(DataError, match="no objects to train on"):
        DetectionData(root)
    assert len(DetectionData(root, train=False).eval_samples) == 4


def test_spec_of_a_detector_decides(tmp_path):
    root = write(tmp_path)
    spec = DetectionData(root).spec
    assert spec == DetectionSpec(("cat", "dog"), (3, 17), train_counts=(1, 1))
    again = DetectionSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert DetectionData(root, spec=again).spec == spec
    with pytest.raises(DataError, match="the detector's classes are 'bird'"):
        DetectionData(root, spec=DetectionSpec(("bird",), (1,)))
    with pytest.raises(DataError, match="not a data specification"):
        DetectionSpec.from_dict({"class_names": ["a"], "colour": 1})


def test_scenes_in_memory_equal_those_in_files(tmp_path):
    export_coco(tmp_path, train=6, val=3, size=64, seed=2)
    memory = DetectionData("digits-scenes#train=6,val=3,size=64,seed=2", masks=True, batch_size=2, flip=0)
    files = DetectionData(tmp_path, masks=True, batch_size=2, flip=0, strict=True)
    assert files.spec == memory.spec
    for one, two in zip(batches(memory, "train"), batches(files, "train"), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
        for a, b in zip(one[1], two[1], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in ("boxes", "labels", "masks"))
    for one, two in zip(batches(memory), batches(files), strict=True):
        assert [t["truth"] for t in one[1]] == [t["truth"] for t in two[1]]


def test_scenes_keep_their_masks():
    found = scenes_set("val", SceneOptions(val=5, size=48, seed=9))
    dataset = DetectionDataset(found, masks=True, train=True)
    for index in range(5):
        scene = make_scene(9, index, 48, "val")
        sample = dataset[index]
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), scene.image)
        assert np.array_equal(sample.target["masks"].numpy().astype(bool), scene.masks)
        assert np.array_equal(sample.target["boxes"].numpy(), scene.boxes)
        assert (sample.target["labels"].numpy() == scene.labels + 1).all()


def test_scenes_in_cityscapes_layout(tmp_path):
    export_cityscapes(tmp_path, train=2, val=1, size=48)
    for split, count in (("train", 2), ("val", 1)):
        pictures = sorted((tmp_path / "leftImg8bit" / split / "digits").glob("*_leftImg8bit.png"))
        assert len(pictures) == count
        for index, path in enumerate(pictures):
            stem = path.name.removesuffix("_leftImg8bit.png")
            scene = make_scene(0, index, 48, split)
            assert np.array_equal(np.asarray(Image.open(path)), scene.image)
            folder = tmp_path / "gtFine" / split / "digits"
            trained = np.asarray(Image.open(folder / f"{stem}_gtFine_labelTrainIds.png"))
            assert np.array_equal(trained, scene.semantic)
            # Cityscapes: road is 7 and train id 0, traffic light 19 and 6, unlabelled 0 and 255
            ids = np.asarray(Image.open(folder / f"{stem}_gtFine_labelIds.png"))
            assert {0: 7, 6: 19, 255: 0}.items() >= {
                int(t): int(i) for t, i in zip(trained.flat, ids.flat, strict=True) if t in (0, 6, 255)
            }.items()
