"""`ctxvision train` under torchrun: killed workers, signals, several nodes."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from _processes import DIGITS, all_gone, assert_same_weights, descendants, finish, start, wait_for, weights

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc"),
]
TWO = ["--nproc-per-node=2", "--max-restarts=3"]
WORDS = [*DIGITS, "--mixup=0.4", "--ema=0.9", "--save_minutes=0.002", "--epochs=4"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    said = finish(process := start(*WORDS, f"--out={folder / 'whole'}", torchrun=TWO))
    assert process.returncode == 0, said
    assert "global batch 64 = 2 devices × 32 images" in said
    return folder / "whole"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def wait_for_checkpoint(folder="run"):
    """Wait for the middle of an epoch with something to go back to."""
    path, end = Path(folder, "checkpoints", "last.ckpt"), time.monotonic() + 200
    while time.monotonic() < end:
        if path.is_file() and weights(folder)["global_step"] % 22:
            return
        time.sleep(0.01)
    raise AssertionError("no checkpoint within an epoch")


def test_killed_worker_is_replaced_and_nothing_is_lost(whole):
    """The worker that writes the checkpoints; `test_two_nodes` kills the other."""
    process = start(*WORDS, "--out=run", torchrun=TWO)
    wait_for(process, "global batch")
    wait_for_checkpoint()
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    said = finish(process)
    assert process.returncode == 0, said
    assert said.count("ctxvision: torchrun has begun this run again (1 restart); continuing in run\n") == 1
    assert_same_weights(whole, "run")


def test_signals_to_torchrun_leave_a_checkpoint_and_no_process(whole):
    """One run is stopped by each of the signals in turn, and ends like the one that nobody disturbed."""
    words = [*WORDS, "--out=run"]
    for epoch, number in enumerate((signal.SIGTERM, signal.SIGINT), 1):
        process = start(*words, torchrun=TWO)
        wait_for(process, f"epoch {epoch}/4")
        workers = descendants(process.pid)
        process.send_signal(number)
        said = finish(process)
        assert process.returncode
        assert "continue with: ctxvision train --resume run" in said
        assert len(workers) >= 2
        assert all_gone(workers)
        words = ["--resume=run"]
    said = finish(process := start(*words, torchrun=TWO))
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
