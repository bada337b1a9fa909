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
WORDS = [*DIGITS, "--mixup=0.4", "--ema=0.9", "--save_minutes=0.002", "--epochs=3"]


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


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_worker_is_replaced_and_nothing_is_lost(whole, rank):
    process = start(*WORDS, "--out=run", torchrun=TWO)
    wait_for(process, "global batch")
    wait_for_checkpoint()
    os.kill(descendants(process.pid)[rank], signal.SIGKILL)
    said = finish(process)
    assert process.returncode == 0, said
    assert said.count("ctxvision: torchrun has begun this run again (1 restart); continuing in run\n") == 1
    assert_same_weights(whole, "run")


def test_folder_of_another_run_is_refused_at_every_attempt():
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text("model: other\n")
    process = start(*WORDS, "--out=run", torchrun=["--nproc-per-node=1", "--max-restarts=1"])
    said = finish(process)
    assert process.returncode == 1
    assert said.count("run: exists and is not empty; choose another --out, or continue with --resume run") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_torchrun_leaves_a_checkpoint_and_no_process(whole, number):
    process = start(*WORDS, "--out=run", torchrun=TWO)
    wait_for(process, "epoch 1/3")
    workers = descendants(process.pid)
    process.send_signal(number)
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


def test_other_numbers_of_processes_are_refused():
    process = start(*WORDS, "--devices=4", "--out=run", torchrun=["--nproc-per-node=1"])
    said = finish(process)
    assert "--devices 4, but torchrun has started 1 node × 1 device; let it start as many, or leave --dev" in said
    assert not Path("run").exists()


def test_run_folder_must_be_named():
    process = start(*WORDS, torchrun=["--nproc-per-node=2"])
    said = finish(process)
    assert "processes that this one has not started need a common run folder: --out RUNDIR" in said
