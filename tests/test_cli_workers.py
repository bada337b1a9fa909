"""How many processes decode images for `evaluate`, `report` and `predict`."""

import os
from types import SimpleNamespace

import pytest

from ctxvision._cli import data
from ctxvision._cli.workers import workers_for


@pytest.mark.parametrize(
    ("processors", "images", "expected"),
    [(2, None, 2), (64, None, 8), (64, 31, 0), (64, 100, 3), (2, 100, 2), (64, 10_000, 8)],
)
def test_one_per_processor_and_none_without_a_batch(monkeypatch, processors, images, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processors), raising=False)
    assert workers_for(images, 32) == expected


@pytest.mark.parametrize(
    ("source", "asked", "expected"), [("digits", None, 0), ("photos", None, 3), ("photos", 0, 0), ("photos", 5, 5)]
)
def test_digits_need_none_and_what_is_asked_for_counts(monkeypatch, source, asked, expected):
    opened = []

    def open_data(name, **options):
        opened.append(options["workers"])
        return SimpleNamespace(fingerprint="")

    monkeypatch.setattr(data, "open_data", open_data)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    spec = SimpleNamespace(fingerprint="x")
    data.open_for_evaluation(source, spec, None, batch_size=32, workers=asked, strict=False)
    assert set(opened) == {expected}
