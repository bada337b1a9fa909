"""How a detector resizes and reads: against torchvision's pool, and against values that follow from the image."""

import pytest
import torch
import torch.nn.functional as F
from _detectors import small
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from ctxvision.tasks import TaskError
from ctxvision.tasks.detection.regions import RoIPool, make_transform

STRIDES = (4, 8, 16, 32)
BOXES = [torch.tensor([[3.0, 5, 40, 61], [0, 0, 250, 200], [8, 8, 130, 100]]), torch.tensor([[20.0, 9, 180, 256]])]


def pyramid():
    return {str(i): torch.randn(2, 3, 256 // s, 256 // s) for i, s in enumerate(STRIDES)}


def test_the_pool_is_torchvision_s_unless_it_is_told_otherwise():
    maps, theirs = pyramid(), MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    theirs.scales, theirs.map_levels = [1 / s for s in STRIDES], LevelMapper(2, 5)
    sizes = [(256, 256)] * 2
    assert torch.equal(RoIPool(7, STRIDES)(maps, BOXES, sizes), theirs(maps, BOXES, sizes))
    assert RoIPool(7, STRIDES)(maps, [torch.zeros(0, 4)] * 2, sizes).shape == (0, 3, 7, 7)


def test_an_aligned_pool_reads_half_a_pixel_further_up_and_left_as_often_as_a_bin_is_wide():
    maps = pyramid()
    found = RoIPool(7, STRIDES, sampling_ratio=0, aligned=True)(maps, BOXES, [])
    levels = LevelMapper(2, 5)(BOXES).tolist()
    assert len(set(levels)) > 1
    for row, (image, box) in enumerate((i, box) for i, boxes in enumerate(BOXES) for box in boxes):
        stride = STRIDES[levels[row]]
        shifted = torch.cat([torch.tensor([float(image)]), box - stride / 2])[None]
        expected = roi_align(maps[str(levels[row])], shifted, 7, 1 / stride, sampling_ratio=0)[0]
        torch.testing.assert_close(found[row], expected)


def test_a_detector_takes_the_numbers_that_it_is_told():
    detector = small(train_candidates=90, test_candidates=50, roi_samples=0, roi_aligned=True)
    rpn, heads = detector.network.rpn, detector.network.roi_heads
    assert rpn._pre_nms_top_n == {"training": 90, "testing": 50}
    assert rpn._post_nms_top_n == {"training": 60, "testing": 40}
    assert (heads.box_roi_pool.sampling_ratio, heads.box_roi_pool.aligned) == (0, True)
    usual = small("mask_rcnn").network
    assert usual.rpn._pre_nms_top_n == usual.rpn._post_nms_top_n == {"training": 60, "testing": 40}
    assert (usual.roi_heads.mask_roi_pool.sampling_ratio, usual.roi_heads.mask_roi_pool.aligned) == (2, False)
    with pytest.raises(TaskError, match="roi_samples must be at least 0, got -1"):
        small(roi_samples=-1)


def test_a_bicubic_detector_resizes_so_and_its_boxes_as_before():
    picture, box = torch.rand(3, 40, 60), {"boxes": torch.tensor([[4.0, 6, 20, 30]]), "labels": torch.tensor([1])}
    for name in ("bilinear", "bicubic"):
        transform = make_transform((64,), 128, [0.0] * 3, [1.0] * 3, name).eval()
        images, targets = transform([picture], [dict(box)])
        assert images.image_sizes == [(64, 96)]
        expected = F.interpolate(picture[None], (64, 96), mode=name, align_corners=False).clamp(0, 1)
        torch.testing.assert_close(images.tensors[..., :64, :96], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(targets[0]["boxes"], box["boxes"] * 1.6)
    with pytest.raises(TaskError, match="interpolation must be bilinear or bicubic, got 'lanczos'"):
        small(interpolation="lanczos")


def test_a_detector_s_filter_can_be_changed():
    detector = small("retinanet", interpolation="bicubic").eval()
    assert detector.network.transform.interpolation == "bicubic"
    detector.resize_by("bilinear")
    transform = detector.network.transform
    assert (transform.interpolation, transform.min_size, transform.training) == ("bilinear", (64,), False)
    assert len(transform._forward_hooks) == 1  # which leaves out objects that the resize has left nothing of
