import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from sklearn.datasets import load_digits

from benchmarks.ablations import scenes
from benchmarks.ablations.scenes import SceneSettings, compose, make_scenes, split_sources
from benchmarks.ablations.train import shifted

FEW = SceneSettings(digits=4, train_per_class=6, test_per_class=5)


def test_scenes_follow_from_the_seed():
    one, same, other = (make_scenes(FEW, seed) for seed in (3, 3, 4))
    for first, second in zip(one, same, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(one[0].images, other[0].images)
    assert one[0].images.shape == (4 * 3 * 6, 1, FEW.side, FEW.side)


def test_sources_are_disjoint_complete_and_stratified():
    train, test = split_sources(0.6, seed=1)
    everything = torch.cat([train.indices, test.indices]).sort().values
    assert torch.equal(everything, torch.arange(1797))
    for digit in range(10):
        share = (train.digits == digit).sum() / ((train.digits == digit).sum() + (test.digits == digit).sum())
        assert share == pytest.approx(0.6, abs=0.005)
    assert not torch.equal(train.indices, split_sources(0.6, seed=2)[0].indices)


@pytest.mark.parametrize("seed", [0, 1])
def test_training_and_test_scenes_share_no_digit_not_even_in_fragments(seed):
    train, test = make_scenes(FEW, seed)
    assert train.used.shape[1] == 2 + FEW.fragments
    assert not set(train.used.flatten().tolist()) & set(test.used.flatten().tolist())


def test_classes_are_balanced_and_shuffled():
    train, test = make_scenes(FEW, 0)
    assert torch.bincount(train.classes).tolist() == [6] * 12
    assert torch.bincount(test.classes).tolist() == [5] * 12
    assert not torch.equal(train.classes, train.classes.sort().values)


def test_classes_name_the_left_and_the_right_digit():
    target = load_digits().target
    pairs = [(left, right) for left in range(4) for right in range(4) if left != right]
    for split in make_scenes(FEW, 0):
        for number, used in zip(split.classes.tolist(), split.used.tolist(), strict=True):
            assert (target[used[0]], target[used[1]]) == pairs[number]


def test_the_left_digit_is_on_the_left():
    """Without rotation, clutter and noise, at twice its size, a digit is what torch enlarges."""
    exact = replace(
        FEW, side=32, digit_side=(16.0, 16.0), angle=0.0, left=(8.0, 8.0), height=(16.0, 16.0), fragments=0,
        contrast=(1.0, 1.0), noise=0.0,
    )  # fmt: skip
    drawn = compose(split_sources(0.6, 0)[0], exact, per_class=2, seed=0)
    digits = torch.from_numpy(load_digits().images).float() / 16
    for half, used in enumerate(drawn.used.unbind(1)):
        wanted = F.interpolate(digits[used][:, None], scale_factor=2, mode="bilinear")
        found = drawn.images[:, :, 8:24, 16 * half : 16 * half + 16]
        # at its border a digit fades into the black, which interpolate does not know
        torch.testing.assert_close(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=1e-5, rtol=0)
    assert drawn.images[:, :, :7].max() == 0


def test_pieces_are_scaled_turned_and_moved_as_scipy_does():
    generator = torch.Generator().manual_seed(0)
    pieces, centres = torch.rand(3, 8, 8, generator=generator), torch.tensor([[9.0, 20.0], [25.5, 8.0], [2, 30]])
    settings = replace(FEW, side=32, digit_side=(14.0, 14.0))
    drawn = scenes._place(pieces, centres, 40.0, (1.0, 1.0), settings, torch.Generator().manual_seed(5))
    again = torch.Generator().manual_seed(5)
    torch.rand(3, generator=again)  # the sizes
    turns = (2 * torch.rand(3, generator=again) - 1) * 40 * math.pi / 180
    y, x = np.mgrid[:32, :32] + 0.5
    for piece, (cx, cy), turn, found in zip(pieces, centres.tolist(), turns.tolist(), drawn, strict=True):
        cos, sin = math.cos(turn), math.sin(turn)
        column = (cos * (x - cx) + sin * (y - cy)) * 8 / 14 + 4
        row = (-sin * (x - cx) + cos * (y - cy)) * 8 / 14 + 4
        wanted = ndimage.map_coordinates(piece.numpy(), [row - 0.5, column - 0.5], order=1, mode="grid-constant")
        np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-4)


def test_fragments_are_squares_of_the_given_side():
    for window in scenes._windows(50, 3, torch.Generator().manual_seed(0)):
        rows, columns = window.nonzero().unbind(1)
        assert len(rows) == 9
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 2


def test_shifts_move_each_image_by_itself():
    images = torch.rand(20, 1, 6, 6)
    moved = shifted(images, 1, -7.0, torch.Generator().manual_seed(0))
    seen = set()
    for image, found in zip(images, moved, strict=True):
        padded = F.pad(image, (1, 1, 1, 1), value=-7.0)[0]
        places = [
            (r, c) for r in range(3) for c in range(3) if torch.equal(padded[r : r + 6, c : c + 6], found[0])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 4
