"""Augmentation of images with masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from _masks import scene
from ctxvision.data.segmentation.augmentation import PixelAugmentation, distort, largest_share
from ctxvision.data.segmentation.cityscapes import COLORS


def sharp(size=(40, 30), seed=0):
    """A picture from which every pixel's class can be read."""
    mask = scene(seed, size)[1]
    return Image.fromarray(np.array(COLORS, dtype=np.uint8)[mask]), Image.fromarray(mask)


@settings(max_examples=30)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 10_000))
def test_mask_moves_with_its_image(height, width, seed):
    """Where nothing is blurred by the scaling, the colour still names the class; the padding is 255."""
    torch.manual_seed(seed)
    augment = PixelAugmentation((height, width), scale=(1.0, 1.0), photometric=False)
    image, mask = augment(*sharp())
    assert image.shape == (3, height, width)
    assert mask.shape == (height, width)
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[: min(height, 30), : min(width, 40)] = True
    assert torch.equal(mask != 255, inside)
    assert (image[:, ~inside] == 0).all()
    colors = torch.tensor(COLORS, dtype=torch.uint8)[mask[inside].long()]
    assert torch.equal(image[:, inside].T, colors)


def test_scales_lie_between_half_and_double():
    """A single-coloured half of the image shows by its width how large the image became."""
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 1
    pair = Image.fromarray(np.stack([mask * 255] * 3, -1)), Image.fromarray(mask)
    augment = PixelAugmentation((128, 128), flip=0.0, photometric=False, max_category_ratio=1.0)
    sizes = []
    for seed in range(200):
        torch.manual_seed(seed)
        image, classes = augment(*pair)
        labelled = classes != 255
        sizes.append(int(labelled[0].sum()))
        assert int(labelled[:, 0].sum()) == sizes[-1]
        edge = (image[0, 0, : sizes[-1]] > 127).int().diff().argmax() + 1
        assert abs(int(edge) - int((classes[0] == 0).sum())) <= 1
    assert 32 <= min(sizes) < 40
    assert 120 < max(sizes) <= 128
    assert sum(sizes) / 200 == pytest.approx(80, abs=6)  # uniform factors from 0.5 to 2


def test_half_of_the_images_are_flipped():
    image, mask = sharp((30, 30))
    augment = PixelAugmentation((30, 30), scale=(1.0, 1.0), photometric=False)
    torch.manual_seed(0)
    results = [augment(image, mask)[1] for _ in range(200)]
    original = torch.from_numpy(np.array(mask))
    straight = sum(torch.equal(r, original) for r in results)
    assert sum(torch.equal(r, original.flip(1)) for r in results) == 200 - straight
    assert 75 < straight < 125


def test_crops_of_one_class_are_drawn_again():
    """One corner has other classes; without the limit, hardly any crop would show it."""
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[:12, :12] = np.arange(144).reshape(12, 12) % 3
    pair = Image.fromarray(np.stack([mask] * 3, -1)), Image.fromarray(mask)

    def mixed(limit):
        torch.manual_seed(0)
        augment = PixelAugmentation((10, 10), scale=(1.0, 1.0), photometric=False, max_category_ratio=limit)
        crops = [augment(*pair)[1] for _ in range(200)]
        return sum(largest_share(crop) < 0.75 for crop in crops) / 200

    once = mixed(1.0)
    # one of ten tries succeeds
    assert mixed(0.75) == pytest.approx(1 - (1 - once) ** 10, abs=0.1)
    assert mixed(0.75) > 3 * once


def test_largest_share_ignores_what_is_not_labelled():
    assert largest_share(torch.tensor([[0, 0, 1, 255, 255, 255]])) == pytest.approx(2 / 3)
    assert largest_share(torch.tensor([[1, 1, 255]])) == 1.0
    assert largest_share(torch.tensor([[255]])) == 1.0


def test_distortion_stays_within_its_limits():
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    values = torch.stack([distort(grey).float().mean((1, 2)) for _ in range(400)])
    assert values.min() >= (100 - 32) * 0.5 - 1
    assert values.max() <= (100 + 32) * 1.5 + 1
    assert values.std() > 15
    assert (values.std(1) < 1).all()  # grey stays grey: channels are not permuted, saturation has no effect
    # a quarter is left alone: neither brightness nor contrast
    assert ((values - 100).abs() < 1).all(1).float().mean() == pytest.approx(0.25, abs=0.07)
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    changed = torch.stack([distort(colour)[:, 0, 0].float() for _ in range(400)])
    assert (changed.std(1) > 5).float().mean() > 0.9


def test_one_channel_is_distorted_too():
    torch.manual_seed(1)
    grey = torch.full((1, 4, 4), 100, dtype=torch.uint8)
    assert all(distort(grey).shape == (1, 4, 4) for _ in range(20))
