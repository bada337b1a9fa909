"""The embedded clips: the class is the motion, and no single frame shows it."""

import numpy as np
import pytest
import torch

from ctxvision.data.embedded.moving_digits import _AXES, _SIGNS, MOTIONS, MovingDigits, draw_clips, draw_places
from ctxvision.data.video.reading import VideoFile
from ctxvision.data.video.writing import export_moving_digits

OPPOSITE = {"left": "right", "up": "down", "clockwise": "counterclockwise", "grow": "shrink"}


def places(name, count, frames=8, seed=0):
    labels = torch.full((count,), MOTIONS.index(name))
    return draw_places(labels, frames, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("one", "other"), OPPOSITE.items())
def test_backwards_is_the_opposite_class(one, other):
    """Not only alike: the very same frames, so that no function of the set of frames can tell the two apart."""
    forth, back = places(one, 50), places(other, 50)
    assert torch.equal(forth.flip(1), back)
    digits = torch.randint(0, 256, (50, 8, 8), dtype=torch.uint8)
    pictures = [draw_clips(digits, p, 24, torch.Generator().manual_seed(1)) for p in (forth, back)]
    assert torch.equal(pictures[0].flip(1), pictures[1])


def test_single_frames_have_the_same_distribution_in_all_classes():
    """Kolmogorov and Smirnov on each of x, y, angle and size; one frame of each clip, taken by chance."""
    from scipy.stats import ks_2samp

    count, frames = 4000, 6
    pick = torch.randint(frames, (count,))
    samples = [places(name, count, frames, seed)[torch.arange(count), pick] for seed, name in enumerate(MOTIONS)]
    lowest = min(
        ks_2samp(samples[0][:, axis], sample[:, axis]).pvalue for sample in samples[1:] for axis in range(4)
    )
    assert lowest > 0.001 / 28  # of 28 comparisons
    # and axes are as independent of each other in one frame as they are in any class
    for sample in samples:
        assert torch.corrcoef(sample.T).fill_diagonal_(0).abs().max() < 0.06


def test_one_axis_moves_evenly_in_its_direction():
    for name in MOTIONS:
        steps = places(name, 20).diff(dim=1)
        axis = _AXES[name]
        assert (steps[..., axis] * _SIGNS[name] > 0).all()
        assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-6)
        steps[..., axis] = 0
        assert not steps.any()


def centre(frames):
    """Where the bright pixels are: (T, 2) x and y, and how many."""
    ink = frames.float().min(1).values > 140
    ys, xs = torch.meshgrid(torch.arange(ink.shape[1]), torch.arange(ink.shape[2]), indexing="ij")
    total = ink.sum((1, 2))
    return torch.stack([(ink * xs).sum((1, 2)) / total, (ink * ys).sum((1, 2)) / total], 1), total


def test_names_say_what_is_seen():
    clips = MovingDigits("train", 160, frames=4, size=48)
    for index, label in enumerate(clips.labels.tolist()):
        (first, *_, last), ink = centre(clips.clips[index])
        name, moved = MOTIONS[label], last - first
        if name in ("left", "right"):
            assert moved[0] * _SIGNS[name] > 3, index
        elif name in ("up", "down"):
            assert moved[1] * _SIGNS[name] > 3, index
        elif name in ("grow", "shrink"):
            assert (ink[-1] > ink[0]) == (name == "grow")


def test_clockwise_turns_right_what_stands_upright():
    bar = torch.zeros(1, 8, 8, dtype=torch.uint8)
    bar[:, :4, 3:5] = 255  # points up from the centre
    values = torch.tensor([[0, 0, 0, 0.0], [0, 0, torch.pi / 2, 0]]).unsqueeze(0)
    clip = draw_clips(bar, values, 32, torch.Generator().manual_seed(0))[0]
    (up, right), _ = centre(clip)
    assert up[1] < 14
    assert abs(up[0] - 15.5) < 1
    assert right[0] > 17
    assert abs(right[1] - 15.5) < 1


def test_always_alike_and_different_by_seed():
    one, two, other = (MovingDigits("val", 40, frames=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.clips, two.clips)
    assert not torch.equal(one.clips, other.clips)
    assert one.clips.shape == (40, 3, 3, 32, 32)
    assert one.labels.bincount().tolist() == [5] * 8


def test_parts_show_different_digits():
    train, val = (set(MovingDigits(part, 600, frames=2, size=8).sources.tolist()) for part in ("train", "val"))
    assert not train & val
    assert len(val) > 150
    # whatever the seed
    assert not train & set(MovingDigits("val", 600, frames=2, size=8, seed=5).sources.tolist())


def test_export(tmp_path):
    paths = export_moving_digits(tmp_path, clips=8, val=8, frames=3, size=32)
    assert [p[len(str(tmp_path)) + 1 :] for p in paths[:2]] == ["train/left/00000.mp4", "train/right/00001.mp4"]
    clips = MovingDigits("val", 8, frames=3).clips.permute(0, 1, 3, 4, 2).numpy()
    for path, clip in zip(paths[8:], clips, strict=True):
        read = VideoFile(path).read(range(3))
        assert np.abs(read.astype(int) - clip).mean() < 12
