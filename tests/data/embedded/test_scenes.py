"""Scenes of digits: deterministic, split by source, and boxes, masks and semantic maps that agree."""

import subprocess
import sys

import numpy as np
import pytest

from ctxvision.data import DataError, DigitsData
from ctxvision.data.embedded.scenes import IGNORED, SceneOptions, make_scene

SCENES = [make_scene(0, index, 96) for index in range(60)]


def test_same_arguments_same_scene():
    for index in (0, 7):
        for one, two in zip(vars(SCENES[index]).values(), vars(make_scene(0, index, 96)).values(), strict=True):
            assert np.array_equal(one, two)


@pytest.mark.process
def test_another_process_makes_the_same_scene():
    code = (
        "import zlib; from ctxvision.data.embedded.scenes import make_scene; "
        "print(zlib.crc32(make_scene(3, 5).image))"
    )
    import zlib

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == zlib.crc32(make_scene(3, 5).image)


@pytest.mark.parametrize("other", [{"seed": 1}, {"index": 1}, {"split": "val"}])
def test_every_argument_counts(other):
    arguments = {"seed": 0, "index": 0, "split": "train"}
    assert not np.array_equal(make_scene(**arguments).image, make_scene(**arguments | other).image)


def test_val_has_digits_that_train_has_not():
    train = np.concatenate([s.sources for s in SCENES])
    val = np.concatenate([make_scene(0, index, 48, "val").sources for index in range(60)])
    assert len(set(train)) > 100
    assert len(set(val)) > 60
    assert not set(train) & set(val)
    # the same split as that of the classifier's digits
    held_out = DigitsData()._eval[0].numpy()
    from sklearn.datasets import load_digits

    pixels = (load_digits().images * 255 / 16).round().astype(np.uint8)
    for source in set(val):
        assert (held_out == pixels[source]).all((1, 2)).any()


def test_boxes_are_tight_around_masks():
    for scene in SCENES:
        assert len(scene.boxes) == len(scene.labels) == len(scene.masks) == len(scene.sources)
        for (x0, y0, x1, y1), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert all(edge.any() for edge in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


def test_masks_are_disjoint_and_agree_with_the_semantic_map():
    for scene in SCENES:
        assert scene.masks.sum(0, initial=0).max() <= 1
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            assert set(np.unique(scene.semantic[mask])) <= {label + 1, IGNORED}
            assert (scene.semantic[mask] == label + 1).mean() > 0.3
        outside = scene.semantic[~scene.masks.any(0)]
        assert set(np.unique(outside)) <= {0, IGNORED}


def test_scenes_are_varied():
    counts = [len(scene.labels) for scene in SCENES]
    assert min(counts) == 0
    assert max(counts) == 6
    heights = np.concatenate([s.boxes[:, 3] - s.boxes[:, 1] for s in SCENES])
    assert heights.min() < 96 * 0.2
    assert heights.max() > 96 * 0.42
    touching = 0
    for scene in SCENES:
        for a in range(len(scene.boxes)):
            for b in range(a):
                low = np.maximum(scene.boxes[a, :2], scene.boxes[b, :2])
                touching += bool((np.minimum(scene.boxes[a, 2:], scene.boxes[b, 2:]) > low).all())
    assert touching > 20
    assert set(np.concatenate([s.labels for s in SCENES])) == set(range(10))


def test_digits_differ_from_the_ground_around_them():
    weak = 0
    for scene in SCENES:
        grey = scene.image @ np.array([0.299, 0.587, 0.114])
        free = ~scene.masks.any(0)
        for (x0, y0, x1, y1), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            around = free[y0:y1, x0:x1]
            if around.sum() > 20:
                weak += abs(grey[mask].mean() - grey[y0:y1, x0:x1][around].mean()) < 15
    assert weak < 0.1 * sum(len(scene.labels) for scene in SCENES)


@pytest.mark.parametrize("size", [48, 100, 128])
def test_sizes(size):
    scene = make_scene(0, 1, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.masks.shape[1:] == scene.semantic.shape == (size, size)


def test_refusals():
    with pytest.raises(DataError, match="at least 48"):
        make_scene(0, 0, 20)
    with pytest.raises(DataError, match="no split 'test'"):
        make_scene(0, 0, split="test")


@pytest.mark.parametrize("seed", range(4))
def test_options_bound_number_and_height_of_the_digits(seed):
    options = SceneOptions.read("digits-scenes", {"size": "128", "digits": "2", "smallest": "30", "largest": "40"})
    scenes = [options.make("train", 10 * seed + index) for index in range(10)]
    assert max(len(scene.labels) for scene in scenes) == 2
    # the lower of two lies partly hidden; what is drawn last is whole
    heights = [scene.boxes[-1][3] - scene.boxes[-1][1] for scene in scenes if len(scene.boxes)]
    # a digit fills its cell of eight rows, or nearly; turned, it is a little higher
    assert min(heights) > 0.2 * 128
    assert max(heights) < 0.55 * 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": "0"}, "digits must be a whole number from 1 to 30, got '0'"),
        ({"smallest": "40", "largest": "30"}, "smallest=40 is more than largest=30"),
        ({"seed": "-1"}, "seed must be a whole number from 0"),
        ({"colour": "1"}, "no option 'colour'"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(DataError, match=message):
        SceneOptions.read("digits-scenes", options)
