"""Which frames and which part of the pictures make a clip."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxvision.data.error import DataError
from ctxvision.data.video.clips import ClipSpec, augment, segment_indices, view_crops, view_indices


@given(st.integers(1, 400), st.integers(1, 32), st.integers(0, 5))
def test_one_frame_of_each_part(length, frames, seed):
    middle = segment_indices(length, frames)
    chance = segment_indices(length, frames, torch.Generator().manual_seed(seed))
    for index, (a, b) in enumerate(zip(middle, chance, strict=True)):
        first, last = index * length / frames, (index + 1) * length / frames
        assert int(first) <= a < last
        assert int(first) <= b < last
        assert a == min(int((index + 0.5) * length / frames), length - 1)
    assert middle == sorted(middle)
    assert chance == sorted(chance)


def test_every_frame_of_a_part_comes_up():
    generator = torch.Generator().manual_seed(0)
    seen = [set(), set()]
    for _ in range(200):
        for place, index in zip(seen, segment_indices(10, 2, generator), strict=True):
            place.add(index)
    assert seen == [set(range(5)), set(range(5, 10))]


def test_short_videos_repeat_frames_in_order():
    assert segment_indices(1, 4) == [0, 0, 0, 0]
    assert segment_indices(3, 8) == [0, 0, 0, 1, 1, 2, 2, 2]


@given(st.integers(1, 400), st.integers(1, 16))
def test_ten_clips_are_spread_evenly(length, frames):
    clips = view_indices(length, frames, 10)
    assert len(clips) == 10
    assert view_indices(length, frames, 1) == [segment_indices(length, frames)]
    assert [c[0] for c in clips] == sorted(c[0] for c in clips)
    if length >= 10 * frames:
        assert len({index for clip in clips for index in clip}) == 10 * frames


def pictures(count=3, height=40, width=60):
    """Frames that say where each pixel was: red is the column, green the row, blue the frame."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.stack([columns, rows, np.full_like(rows, t)], -1) for t in range(count)]).astype(np.uint8)


@given(st.integers(0, 300), st.booleans())
def test_all_frames_are_cut_and_mirrored_alike(seed, flip):
    clip = augment(pictures(), (16, 16), torch.Generator().manual_seed(seed), flip=flip, crop=True)
    assert clip.shape == (3, 3, 16, 16)
    assert clip.dtype == torch.uint8
    assert torch.equal(clip[0, :2], clip[1, :2])
    assert torch.equal(clip[0, :2], clip[2, :2])
    assert clip[:, 2].flatten(1).unique(dim=1).tolist() == [[0], [1], [2]]
    red, green = clip[0, 0].int(), clip[0, 1].int()
    mirrored = bool((red[:, 0] > red[:, -1]).all())
    assert flip or not mirrored
    assert (green[-1] > green[0]).all()
    width, height = (
        abs(int(red[0, -1]) - int(red[0, 0])) * 16 / 15,
        (int(green[-1, 0]) - int(green[0, 0])) * 16 / 15,
    )
    shares = [1, 0.875, 0.75, 0.66]
    assert min(abs(width / 40 - s) for s in shares) < 0.06
    assert min(abs(height / 40 - s) for s in shares) < 0.06


def test_crops_and_mirrors_vary():
    made = [augment(pictures(), (8, 8), torch.Generator().manual_seed(s), flip=True, crop=True) for s in range(60)]
    left = {int(clip[0, 0].min()) for clip in made}
    assert min(left) <= 2
    assert max(left) >= 20
    assert 15 < sum(bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]) for clip in made) < 45
    same = augment(pictures(), (8, 8), torch.Generator().manual_seed(3), flip=True, crop=True)
    assert torch.equal(same, made[3])


def test_small_clips_of_the_right_size_stay_as_they_are():
    pixels = pictures(4, 32, 32)
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    assert torch.equal(augment(pixels, (32, 32), torch.Generator(), flip=False, crop=False), expected)
    assert torch.equal(view_crops(pixels, (32, 32), 1.0, 1)[0], expected)


def test_views():
    clip = view_crops(pictures(2, 40, 80), (32, 32), 0.8, 3)
    assert clip.shape == (3, 2, 3, 32, 32)
    # the whole length is covered, in the middle of the height
    assert [int(view[0, 0, 0, 0]) for view in clip] == [0, 24, 48]
    assert [int(view[0, 0, 0, -1]) for view in clip] == [31, 55, 79]
    assert [int(view[0, 1, 0, 0]) for view in clip] == [4, 4, 4]
    tall = view_crops(pictures(2, 80, 40), (32, 32), 0.8, 3)
    assert [int(view[0, 1, 0, 0]) for view in tall] == [0, 24, 48]
    assert torch.equal(view_crops(pictures(2, 40, 80), (32, 32), 0.8, 1)[0], clip[1])


def test_specification_survives_as_plain_values():
    spec = ClipSpec(("a", "b"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, frames=6)
    assert ClipSpec.from_dict(spec.to_dict()) == spec
    assert spec.to_dict()["frames"] == 6
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert spec.normalize(pixels).flatten().tolist() == [-1, -1, -1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"), [({"frames": 0}, "at least one frame"), ({"input_size": (1, 8, 8)}, "clips have 3")]
)
def test_wrong_specifications(change, message):
    values = {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.5,)}
    values |= change
    channels = values["input_size"][0]
    with pytest.raises(DataError, match=message):
        ClipSpec(**{**values, "class_names": ("a", "b"), "mean": (0.5,) * channels, "std": (0.5,) * channels})
