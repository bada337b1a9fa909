"""The queue and its thread: order, batches, room, errors, the end."""

import doctest
import importlib
import threading
from concurrent.futures import wait

import pytest

from ctxvision.serve import Batcher
from ctxvision.serve.batcher import ClosedError, QueueFullError


@pytest.mark.parametrize("name", ["batcher", "app"])
def test_examples_of_the_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"ctxvision.serve.{name}"))
    assert result.attempted
    assert not result.failed


class Gate:
    """A function on batches that waits to be let go."""

    def __init__(self):
        self.begun, self.free, self.batches = threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, items):
        self.batches.append(list(items))
        self.begun.release()
        assert self.free.acquire(timeout=60)
        return [-item for item in items]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batcher(gate):
    made = Batcher(gate, batch=3, queue=5)
    yield made
    gate.free.release(100)
    assert made.close()


def test_what_waits_is_run_together_in_its_order(gate, batcher):
    first = batcher.submit([1])
    assert gate.begun.acquire(timeout=60)
    later = batcher.submit([2, 3]) + batcher.submit([4, 5])
    assert batcher.depth == 4
    gate.free.release(100)
    assert [future.result(10) for future in first + later] == [-1, -2, -3, -4, -5]
    assert gate.batches == [[1], [2, 3, 4], [5]]


def test_a_full_queue_takes_nothing_of_what_does_not_fit(gate, batcher):
    batcher.submit([0])
    assert gate.begun.acquire(timeout=60)
    batcher.submit([1, 2, 3, 4])
    with pytest.raises(QueueFullError):
        batcher.submit([5, 6])
    with pytest.raises(QueueFullError):
        batcher.submit([7, 8])
    assert batcher.depth == 4
    (last,) = batcher.submit([9])
    with pytest.raises(QueueFullError):
        batcher.call(lambda: None)
    gate.free.release(100)
    assert last.result(10) == -9
    assert [item for batch in gate.batches for item in batch] == [0, 1, 2, 3, 4, 9]


def test_what_is_cancelled_makes_room_and_is_not_run(gate, batcher):
    batcher.submit([0])
    assert gate.begun.acquire(timeout=60)
    waiting = batcher.submit([1, 2, 3, 4, 5])
    assert all(future.cancel() for future in waiting[1:])
    again = batcher.submit([6, 7])
    gate.free.release(100)
    assert [future.result(10) for future in again] == [-6, -7]
    assert gate.batches == [[0], [1, 6, 7]]


def test_max_wait_gathers_a_batch():
    gathered = []
    with_time = Batcher(lambda items: gathered.append(list(items)) or items, batch=2, queue=5, max_wait=10)
    # the batch is full, so nobody waits for the 10 seconds to pass
    futures = with_time.submit([1]) + with_time.submit([2])
    assert wait(futures, 5).not_done == set()
    assert gathered == [[1, 2]]
    assert with_time.close()


def test_work_runs_alone_between_batches(gate, batcher):
    batcher.submit([0])
    assert gate.begun.acquire(timeout=60)
    batcher.submit([1])
    name = batcher.call(lambda: threading.current_thread().name)
    batcher.submit([2])
    gate.free.release(100)
    assert name.result(10) == "inference"
    batcher.submit([3])[0].result(10)
    assert gate.batches == [[0], [1], [2], [3]]


def test_an_error_is_that_of_its_batch_alone():
    def run(items):
        if 2 in items:
            raise ValueError("two")
        return items

    batcher = Batcher(run, batch=1, queue=5)
    one, two, three = batcher.submit([1, 2, 3])
    assert isinstance(two.exception(10), ValueError)
    assert (one.result(10), three.result(10)) == (1, 3)
    failed = batcher.call(lambda: 1 / 0)
    assert isinstance(failed.exception(10), ZeroDivisionError)
    assert batcher.submit([4])[0].result(10) == 4
    assert batcher.close()


@pytest.mark.parametrize("run", [lambda items: items[1:], lambda items: [*items, 0], lambda items: None])
def test_a_network_that_answers_another_number_fails_those_requests_alone(run):
    broken = [True]
    batcher = Batcher(lambda items: run(items) if broken.pop() else items, batch=2, queue=5, max_wait=10)
    for future in batcher.submit([1, 2]):
        assert isinstance(future.exception(10), RuntimeError | TypeError)
    broken.append(False)
    assert [future.result(10) for future in batcher.submit([3, 4])] == [3, 4]
    assert batcher.close()


def test_close_finishes_what_waits(gate, batcher):
    futures = batcher.submit([1, 2, 3, 4])
    assert not batcher.close(timeout=0.01)
    with pytest.raises(ClosedError):
        batcher.submit([5])
    gate.free.release(100)
    assert batcher.close()
    assert [future.result(0) for future in futures] == [-1, -2, -3, -4]
