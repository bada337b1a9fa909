"""Which images are held out: stratified, and the same everywhere."""

import random
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ctxvision.data.labelled import fingerprint, hold_out

NAMES = st.sets(st.text("abcé0/.", min_size=1, max_size=6), max_size=60)
FRACTIONS = st.floats(0.01, 0.99)


@given(NAMES, FRACTIONS, st.integers(0, 9))
def test_share_and_limits(names, fraction, seed):
    held_out = hold_out(sorted(names), fraction, seed)
    assert held_out <= names
    if len(names) < 2:
        assert not held_out
    else:
        assert 1 <= len(held_out) <= len(names) - 1
        exact = fraction * len(names)
        assert abs(len(held_out) - exact) <= 0.5 + 1e-9 or len(held_out) in (1, len(names) - 1)


@given(NAMES, FRACTIONS, st.randoms(use_true_random=False))
def test_order_does_not_matter(names, fraction, generator):
    shuffled = sorted(names)
    generator.shuffle(shuffled)
    assert hold_out(shuffled, fraction, 0) == hold_out(sorted(names), fraction, 0)
    assert fingerprint(shuffled) == fingerprint(sorted(names))


def test_choice_is_pinned():
    """The same on every machine and in every version: a held-out image must never become a training image."""
    names = [f"cat/{index:03d}.png" for index in range(10)]
    assert hold_out(names, 0.2, 0) == {"cat/001.png", "cat/003.png"}
    assert fingerprint(names) == "35235af602946af4"


def test_seeds_choose_differently():
    names = [str(index) for index in range(100)]
    choices = [hold_out(names, 0.2, seed) for seed in range(5)]
    assert len({frozenset(choice) for choice in choices}) == 5


def test_new_images_move_few_old_ones():
    names = [f"{index}.png" for index in range(200)]
    before = hold_out(names, 0.2, 0)
    after = hold_out(names + [f"new{index}.png" for index in range(10)], 0.2, 0)
    assert len(before - after) <= 6


def test_composed_and_decomposed_accents_are_one_name():
    names = ["é.png", "a.png", "ü.png", "b.png"]
    apart = [unicodedata.normalize("NFD", name) for name in names]
    assert {unicodedata.normalize("NFC", name) for name in hold_out(apart, 0.5, 0)} == hold_out(names, 0.5, 0)
    assert fingerprint(apart) == fingerprint(names)


def test_global_generator_is_left_alone():
    state = random.getstate()
    hold_out(["a", "b", "c"], 0.5, 0)
    assert random.getstate() == state
