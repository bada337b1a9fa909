"""The measurement of the server counts what it should."""

import asyncio
import os

import torch

from benchmarks.serve import COLUMNS, load, loop_rate, pictures, resident


def test_load_on_a_real_server(server):
    found = asyncio.run(load(server, os.getpid(), pictures(32, 3), requests=20, connections=4))
    assert len(found.seconds) == 20
    assert (found.failed, found.refused) == (0, 0)
    assert min(found.seconds) > 0
    assert [answered for answered, _ in found.memory] == list(range(1, 21))
    assert all(mib > 10 for _, mib in found.memory)


def test_what_is_no_200_counts_as_failed(server):
    found = asyncio.run(load(server, os.getpid(), [b"no image"], requests=3, connections=1))
    assert found.failed == len(found.seconds) == 3


def test_memory_is_that_of_the_process():
    before = resident(os.getpid())
    held = torch.ones(32 * 2**18)  # 32 MiB
    assert 24 < resident(os.getpid()) - before < 64
    del held


def test_the_loop_reads_every_image(checkpoints):
    assert loop_rate(str(checkpoints[1]), pictures(16, 2), images=4) > 0
    assert len(set(COLUMNS)) == len(COLUMNS)
