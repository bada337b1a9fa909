"""The measurement of the server counts what it should."""

import asyncio
import os
import subprocess
import sys

import pytest

from benchmarks.serve import COLUMNS, load, loop_rate, pictures, resident


@pytest.mark.process
def test_load_on_a_real_server(server):
    found = asyncio.run(load(server, os.getpid(), pictures(32, 3), requests=20, connections=4))
    assert len(found.seconds) == 20
    assert (found.failed, found.refused) == (0, 0)
    assert min(found.seconds) > 0
    assert [answered for answered, _ in found.memory] == list(range(1, 21))
    assert all(mib > 10 for _, mib in found.memory)


@pytest.mark.process
def test_what_is_no_200_counts_as_failed(server):
    found = asyncio.run(load(server, os.getpid(), [b"no image"], requests=3, connections=1))
    assert found.failed == len(found.seconds) == 3


@pytest.mark.process
def test_memory_is_that_of_the_process():
    # a process of its own: this one may have memory to spare, which a new tensor would take without growing
    code = "import sys; held = b''; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read(1)\n"
    code += "held = b'x' * 2**25; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read(1)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sizes = []
        for _ in range(2):
            assert process.stdout.read(1) == b"."
            sizes.append(resident(process.pid))
            process.stdin.write(b".")
            process.stdin.flush()
    assert 24 < sizes[1] - sizes[0] < 64


def test_the_loop_reads_every_image(checkpoints):
    assert loop_rate(str(checkpoints[1]), pictures(16, 2), images=4) > 0
    assert len(set(COLUMNS)) == len(COLUMNS)
