"""How many processes decode images for `evaluate`, `report` and `predict`."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from ctxvision.data.module import _leave_signals, workers_for
from ctxvision.evaluation import DataRequest


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
    def open_for_evaluation(name, spec, task, split, **options):
        module = SimpleNamespace(workers=options["workers"], eval_dataset=lambda: range(1000), notes=())
        return module, "val"

    monkeypatch.setattr("ctxvision.evaluation.source.open_for_evaluation", open_for_evaluation)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    opened = DataRequest(source, workers=asked).open(None, "classification", batch_size=32)
    assert opened.module.workers == expected


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        time.sleep(0.02)
        return index


@pytest.mark.process
def test_signals_to_workers_are_left_to_the_main_process():
    loader = torch.utils.data.DataLoader(Slow(), num_workers=1, worker_init_fn=_leave_signals)
    batches = iter(loader)
    next(batches)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        os.kill(batches._workers[0].pid, number)
    assert len(list(batches)) == 19
    assert not batches._workers[0].is_alive()
