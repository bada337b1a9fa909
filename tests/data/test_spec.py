"""What travels in the checkpoint about the data."""

import json

import pytest

from ctxvision.data import DataError, DataSpec

SPEC = DataSpec(("cat", "dog"), (3, 32, 48), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), fingerprint="ab")


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
        ({"surprise": 1}, "surprise"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        DataSpec.from_dict(SPEC.to_dict() | change)


def test_missing_values_are_refused():
    with pytest.raises(DataError, match="missing"):
        DataSpec.from_dict({"class_names": ["cat", "dog"]})
