"""Mean IoU against loops and other libraries, on random and on awkward inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from ctxvision.tasks.segmentation import PixelConfusion, intersection_over_union


def ours(predictions, truths, classes):
    confusion = PixelConfusion(classes)
    for predicted, truth in zip(predictions, truths, strict=True):
        confusion.update(predicted, truth)
    return intersection_over_union(confusion.compute())


def by_sets(predictions, truths, classes):
    """Cityscapes' definition with sets of pixels, one class after the other."""
    values = []
    for c in range(classes):
        predicted, true = set(), set()
        for n, (p, t) in enumerate(zip(predictions, truths, strict=True)):
            for place in np.ndindex(*p.shape):
                if t[place] != 255:
                    if p[place] == c:
                        predicted.add((n, place))
                    if t[place] == c:
                        true.add((n, place))
        union = predicted | true
        values.append(len(predicted & true) / len(union) if union else math.nan)
    present = [v for v in values if not math.isnan(v)]
    return values, sum(present) / len(present) if present else math.nan


@given(st.data(), st.integers(2, 6))
def test_equals_sets_of_pixels(data, classes):
    """Images of many sizes; classes may be missing, pixels may all be ignored."""
    predictions, truths = [], []
    used = data.draw(st.sets(st.integers(0, classes - 1), min_size=1))
    for _ in range(data.draw(st.integers(1, 3))):
        shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        pixels = shape[0] * shape[1]
        p = data.draw(st.lists(st.sampled_from(sorted(used)), min_size=pixels, max_size=pixels))
        t = data.draw(st.lists(st.sampled_from([*range(classes), 255]), min_size=pixels, max_size=pixels))
        predictions.append(torch.tensor(p).view(shape))
        truths.append(torch.tensor(t, dtype=torch.uint8).view(shape))
    got = ours(predictions, truths, classes)
    values, mean = by_sets(predictions, truths, classes)
    assert got.by_class == pytest.approx(values, nan_ok=True)
    assert got.mean == pytest.approx(mean, nan_ok=True)


def test_equals_sklearn_and_torchmetrics():
    random = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 7, (4, 40, 50), generator=random)
    truth = torch.randint(0, 7, (4, 40, 50), generator=random)
    truth[torch.rand(truth.shape, generator=random) < 0.6] = predicted[0, 0, 0]
    truth[:, :5] = 255
    got = ours([predicted], [truth], 7)
    kept = truth != 255
    reference = jaccard_score(truth[kept].numpy(), predicted[kept].numpy(), average=None)
    assert got.by_class == pytest.approx(reference.tolist())
    peer = MulticlassJaccardIndex(7, ignore_index=255)
    assert got.mean == pytest.approx(peer(predicted, truth).item())
    assert got.pixel_accuracy == pytest.approx((predicted == truth)[kept].float().mean().item())
    assert sum(got.truth) == int(kept.sum())


def test_absent_predicted_and_ignored_classes():
    """1 is absent everywhere: left out. 2 is predicted, but only where the truth is ignored: left out too. 3 is
    predicted wrongly and has no pixel: 0, and counts."""
    predicted = torch.tensor([[0, 0, 2, 3]])
    truth = torch.tensor([[0, 0, 255, 0]])
    got = ours([predicted], [truth], 4)
    assert got.by_class == pytest.approx((2 / 3, math.nan, math.nan, 0.0), nan_ok=True)
    assert got.mean == pytest.approx(1 / 3)
    assert got.truth == (3, 0, 0, 0)


def test_nothing_but_ignored_pixels_has_no_mean():
    got = ours([torch.zeros(3, 3, dtype=torch.long)], [torch.full((3, 3), 255)], 3)
    assert math.isnan(got.mean)
    assert math.isnan(got.pixel_accuracy)


def test_mean_is_of_the_whole_set_not_of_images():
    """A class that is small in one image weighs by its pixels."""
    predictions = [torch.zeros(1, 10, dtype=torch.long), torch.ones(1, 2, dtype=torch.long)]
    truths = [torch.zeros(1, 10, dtype=torch.long), torch.tensor([[0, 1]])]
    assert ours(predictions, truths, 2).by_class == pytest.approx((10 / 11, 1 / 2))


def test_counts_beyond_float32_are_exact():
    big = 2**25
    confusion = torch.tensor([[big + 1, 1], [0, 1]])
    assert intersection_over_union(confusion).by_class[0] == (big + 1) / (big + 2)
