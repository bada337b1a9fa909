"""What travels in the checkpoint about the data."""

import json

import pytest

from ctxvision.data import DataError, DataSpec

SPEC = DataSpec(
    ("cat", "dog"), (3, 32, 48), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), fingerprint="ab", train_counts=(4, 0)
)


def test_plain_values_there_and_back():
    values = SPEC.to_dict()
    assert DataSpec.from_dict(json.loads(json.dumps(values))) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["cat"]}, "at least two classes"),
        ({"input_size": [2, 32, 32]}, "1 or 3"),
        ({"input_size": [3, 0, 32]}, "1 or 3"),
        ({"input_size": [3, 32]}, "1 or 3"),
        ({"mean": [0.5]}, "means"),
        ({"train_counts": [4]}, "2 classes need as many counts, got 1"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        DataSpec.from_dict(SPEC.to_dict() | change)


def test_missing_values_are_refused():
    with pytest.raises(DataError, match="missing"):
        DataSpec.from_dict({"class_names": ["cat", "dog"]})


def test_specs_of_before_the_counts_are_understood():
    values = SPEC.to_dict()
    del values["train_counts"]
    assert DataSpec.from_dict(values).train_counts == ()


def test_crops_cover_at_least_their_share():
    """A large picture whose middle alone is red: small crops can miss it."""
    import torch
    from PIL import Image

    spec = DataSpec(("cat", "dog"), (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    image = Image.new("RGB", (100, 100))
    image.paste("red", (45, 45, 55, 55))

    def red(**options):
        torch.manual_seed(0)
        transform = spec.train_transform(**options)
        return [transform(image)[0].max().item() > 0.5 for _ in range(60)]

    assert all(red(crop_scale=0.9))
    assert not all(red())
