"""Cityscapes' layout and labels."""

import numpy as np
import pytest
import torch
from PIL import Image

from _masks import make_cityscapes, scene
from ctxvision.data import DataError, SegmentationData
from ctxvision.data.segmentation.cityscapes import CLASS_NAMES, COLORS, train_ids

# id, train id: the table of the official scripts, written once more
OFFICIAL = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
            27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip


def test_label_ids_are_the_official_table():
    table = train_ids()
    for label in range(34):
        assert table[label] == OFFICIAL.get(label, 255)
    assert table[255] == 255
    assert (table[34:255] == -1).all()
    assert (len(CLASS_NAMES), len(COLORS)) == (19, 19)
    assert (CLASS_NAMES[0], CLASS_NAMES[13], CLASS_NAMES[18]) == ("road", "car", "bicycle")
    assert COLORS[13] == (0, 0, 142)


def test_layout_and_both_kinds_of_masks(tmp_path):
    data = SegmentationData(make_cityscapes(tmp_path))
    assert data.spec.class_names == CLASS_NAMES
    assert data.spec.input_size == (3, 512, 1024)
    assert data.spec.colors == COLORS
    assert (len(data.train_samples), len(data.eval_samples)) == (3, 3)
    for index, batch in enumerate(data.val_dataloader()):
        _, masks = data.on_after_batch_transfer(batch, 0)
        expected = scene(index, (32, 16), classes=19)[1]
        expected[0] = 255
        assert torch.equal(masks[0], torch.from_numpy(expected))
    assert not data.bad_images


def test_missing_counterparts_are_named_and_counted(tmp_path):
    make_cityscapes(tmp_path)
    (tmp_path / "gtFine/train/ulm/ulm_000000_000000_gtFine_labelIds.png").unlink()
    (tmp_path / "leftImg8bit/val/ulm/ulm_000000_000002_leftImg8bit.png").unlink()
    data = SegmentationData(tmp_path)
    assert sorted(data.bad_images.values()) == [
        "has no image leftImg8bit/val/ulm/ulm_000000_000002_leftImg8bit.png",
        "has no mask gtFine/train/ulm/ulm_000000_000000_gtFine_labelIds.png",
    ]
    assert (len(data.train_samples), len(data.eval_samples)) == (2, 2)
    with pytest.raises(DataError, match="has no"):
        SegmentationData(tmp_path, strict=True)


def test_unknown_label_id(tmp_path):
    make_cityscapes(tmp_path)
    path = tmp_path / "gtFine/val/ulm/ulm_000000_000000_gtFine_labelIds.png"
    Image.fromarray(np.full((16, 32), 77, dtype=np.uint8)).save(path)
    data = SegmentationData(tmp_path)
    read = [data.on_after_batch_transfer(batch, 0)[0] for batch in data.val_dataloader()]
    assert [len(images) for images in read] == [0, 1, 1]
    assert data.bad_images == {str(path): "value 77 is none of the 19 classes, nor 255"}


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(DataError, match="leftImg8bit but no gtFine"):
        SegmentationData(tmp_path)
    (tmp_path / "gtFine").mkdir()
    with pytest.raises(DataError, match=r"no images with masks; expected leftImg8bit/train/CITY"):
        SegmentationData(tmp_path)
