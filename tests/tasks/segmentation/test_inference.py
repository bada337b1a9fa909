"""Whole images and sliding windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ctxvision.tasks.segmentation import image_logits, segment, window_places

SIDES = st.integers(1, 12)


@given(SIDES, SIDES, SIDES, SIDES, st.data())
def test_windows_cover_every_pixel_and_stay_inside(height, width, rows, columns, data):
    rows, columns = min(rows, height), min(columns, width)
    stride = data.draw(st.tuples(st.integers(1, rows), st.integers(1, columns)))
    places = window_places((height, width), (rows, columns), stride)
    cover = torch.zeros(height, width)
    for top, left in places:
        assert 0 <= top <= height - rows
        assert 0 <= left <= width - columns
        cover[top : top + rows, left : left + columns] += 1
    assert cover.min() >= 1
    assert len(set(places)) == len(places)


def test_window_places_are_the_published_grid():
    """1024 × 2048 with windows of 512 × 1024 by 341 × 683, as in OpenMMLab's slide inference."""
    tops, lefts = zip(*window_places((1024, 2048), (512, 1024), (341, 683)), strict=True)
    assert sorted(set(tops)) == [0, 341, 512]
    assert sorted(set(lefts)) == [0, 683, 1024]


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.data())
def test_pixelwise_network_sees_no_windows(size, window, data):
    stride = data.draw(st.one_of(st.none(), st.tuples(*(st.integers(1, side) for side in window))))
    network = nn.Conv2d(2, 3, 1).double()
    images = torch.randn(2, 2, *size, dtype=torch.double)
    torch.testing.assert_close(image_logits(network, images, window=window, stride=stride), network(images))


def test_overlapping_logits_are_averaged():
    """A loop over the windows, pixel by pixel."""
    network = nn.Conv2d(1, 2, 3, padding=1).double()
    image = torch.randn(1, 1, 7, 9, dtype=torch.double)
    window, stride = (4, 5), (3, 2)
    seen = [[[] for _ in range(9)] for _ in range(7)]
    for top in (0, 3):
        for left in (0, 2, 4):
            logits = network(image[..., top : top + 4, left : left + 5])
            for y in range(4):
                for x in range(5):
                    seen[top + y][left + x].append(logits[0, :, y, x])
    expected = torch.stack([torch.stack([sum(v) / len(v) for v in row], 1) for row in seen], 1)
    got = image_logits(network, image, window=window, stride=stride)
    torch.testing.assert_close(got[0], expected)
    assert not torch.allclose(got, network(image))  # windows have borders of their own


def test_windows_larger_than_the_image_are_the_image():
    network = nn.Conv2d(1, 2, 3, padding=1)
    image = torch.randn(1, 1, 7, 9)
    assert torch.equal(image_logits(network, image, window=(100, 100)), network(image))


def test_stride_with_gaps_is_refused():
    with pytest.raises(ValueError, match=r"at most the window, got \(5, 2\) for \(4, 4\)"):
        image_logits(nn.Identity(), torch.zeros(1, 1, 8, 8), window=(4, 4), stride=(5, 2))


def test_classes_and_confidence():
    network = nn.Conv2d(3, 4, 1)
    image = torch.randn(3, 5, 6)
    found = segment(network, image)
    probabilities = network(image[None])[0].softmax(0)
    assert torch.equal(found.classes, probabilities.argmax(0))
    torch.testing.assert_close(found.confidence, probabilities.amax(0))
    assert not found.confidence.requires_grad
