"""`ctxvision train` under torchrun: killed workers, signals, several nodes."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from _processes import TWO, WORDS, all_gone, assert_same_weights, descendants, finish, start, wait_for, weights

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def wait_for_checkpoint(folder="run"):
    """Wait for the middle of an epoch with something to go back to."""
    path, end = Path(folder, "checkpoints", "last.ckpt"), time.monotonic() + 600
    while time.monotonic() < end:
        if path.is_file() and weights(folder)["global_step"] % 22:
            return
        time.sleep(0.01)
    raise AssertionError("no checkpoint within an epoch")


def test_a_killed_worker_and_a_signal_cost_nothing(whole):
    """One run loses the worker that writes checkpoints (`test_two_nodes` kills the other), then gets a signal.

    torchrun hands on whatever signal it gets; what a run makes of each, `test_processes` tests.
    """
    process = start(*WORDS, "--out=run", torchrun=TWO)
    wait_for(process, "global batch")
    wait_for_checkpoint()
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    wait_for(process, "ctxvision: torchrun has begun this run again (1 restart); continuing in run\n")
    said = wait_for(process, "epoch ")
    assert "has begun" not in said
    workers = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert process.returncode
    assert "continue with: ctxvision train --resume run" in said
    assert len(workers) >= 2
    assert all_gone(workers)
    said = finish(process := start("--resume=run", torchrun=TWO))
    assert process.returncode == 0, said
    assert_same_weights(whole, "run")


def test_two_nodes(whole):
    """One machine stands for both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    node = ["--nnodes=2", "--nproc-per-node=1", f"--rdzv-endpoint=localhost:{port}", "--rdzv-backend=c10d"]
    node += ["--rdzv-id=both", "--local-addr=localhost", "--max-restarts=2"]
    nodes = [start(*WORDS, "--out=run", torchrun=node) for _ in range(2)]
    wait_for_checkpoint()
    worker = descendants(nodes[1].pid)[0]
    os.kill(worker, signal.SIGKILL)
    said = [finish(process) for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], said
    assert sum(text.count("torchrun has begun this run again") for text in said) == 1
    assert "global batch 64 = 2 nodes × 1 device × 32 images" in "".join(said)
    assert_same_weights(whole, "run")
