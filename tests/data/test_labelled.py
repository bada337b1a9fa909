"""From images by class to labelled samples: complete, disjoint, stratified, and everything odd is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxvision.data import DataError, SplitRule
from ctxvision.data.labelled import arrange, in_order

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=2)


def images(counts, prefix=""):
    return {name: {f"{name}/{i}": f"{prefix}{name}/{i}.png" for i in range(n)} for name, n in counts.items()}


@given(COUNTS, st.floats(0.01, 0.99), st.integers(0, 3))
def test_split_is_complete_disjoint_and_stratified(counts, fraction, seed):
    contents = arrange(images(counts), None, where="x", split=SplitRule(fraction, seed))
    train, val = dict(contents.train), dict(contents.val)
    assert not train.keys() & val.keys()
    everything = {f"{name}/{i}.png": name for name, n in counts.items() for i in range(n)}
    assert {path: contents.class_names[label] for path, label in (train | val).items()} == everything
    for label, (name, count) in enumerate(counts.items()):
        held_out = list(val.values()).count(label)
        assert held_out + contents.train_counts[label] == count
        assert contents.class_names[label] == name
        limits = (0, 0) if count == 1 else (1, count - 1)
        expected = min(max(fraction * count, limits[0]), limits[1])
        assert abs(held_out - expected) <= 0.5 + 1e-9


@given(COUNTS, st.randoms(use_true_random=False), st.text("xy/", max_size=3))
def test_split_depends_on_the_keys_alone(counts, generator, prefix):
    shuffled = {}
    for name, found in images(counts, prefix).items():
        keys = list(found)
        generator.shuffle(keys)
        shuffled[name] = {key: found[key] for key in keys}
    one, other = arrange(images(counts), None, where="x"), arrange(shuffled, None, where="y")
    assert {prefix + path for path, _ in one.val} == {path for path, _ in other.val}
    assert one.fingerprint == other.fingerprint


def test_imbalance_is_said_once_it_is_large():
    one_each = images({"cat": 1, "dog": 1, "emu": 1})

    def notes(small):
        return arrange(images({"cat": 300, "dog": 40, "emu": small}), one_each, where="x", where_val="y").notes

    assert notes(30) == []
    (note,) = notes(12)
    assert "25-fold" in note
    assert "12 training images of 'emu' to 300 of 'cat'" in note


def test_class_that_is_only_in_validation_is_refused():
    with pytest.raises(DataError, match=r"^val: train has no class 'emu'; it has 'cat', 'dog'$"):
        arrange(images({"cat": 2, "dog": 2}), images({"cat": 1, "emu": 1}), where="train", where_val="val")


def test_empty_class_is_left_out_and_said():
    contents = arrange(images({"cat": 4, "bee": 0, "dog": 4}), None, where="x")
    assert contents.class_names == ("cat", "dog")
    assert contents.notes == ["x: no images in 'bee', left out of the classes"]


def test_nothing_at_all_is_refused():
    for found in ({}, images({"cat": 0, "dog": 0})):
        with pytest.raises(DataError, match="x: no images"):
            arrange(found, None, where="x")


def test_validation_alone_is_enough_for_a_trained_network():
    contents = arrange(
        {}, images({"dog": 2}), where="x", where_val="y", split=SplitRule(class_names=("cat", "dog"))
    )
    assert contents.train == []
    assert [label for _, label in contents.val] == [1, 1]
    assert contents.train_counts == (0, 0)


@pytest.mark.parametrize(
    ("labels", "order"),
    [(["10", "9", "1"], ["1", "9", "10"]), (["b", "a", "b"], ["a", "b"]), (["2", "x", "10"], ["10", "2", "x"])],
)
def test_numbers_are_sorted_as_numbers(labels, order):
    assert in_order(labels) == order
