"""Runs of `ctxvision train` as processes of their own, and what they leave behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

DIGITS = ["test_resnet", "digits", "--image-size=16", "--batch-size=64", "--device=cpu", "--lr=0.01"]
DIGITS += ["--pictures=false"]  # which take longer than an epoch
# what is compared to the bit, whoever starts its two processes
WORDS = [*DIGITS, "--mixup=0.4", "--ema=0.9", "--save-minutes=0.002", "--epochs=4"]
TWO = ["--nproc-per-node=2", "--max-restarts=3"]
# first on the path of processes: packages that would be imported in vain
ABSENT = str(Path(__file__).parent / "absent")
_LAUNCHERS = ("TORCHELASTIC", "SLURM", "CTXVISION", "LOCAL_", "MASTER_", "GROUP_", "ROLE_", "RANK", "WORLD_SIZE")


def start(*words, torchrun=(), **variables):
    """Start a run, by torchrun if it has options; output goes to a pipe."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": ABSENT, **variables}
    by = ["-m", "torch.distributed.run", *torchrun] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *by, "-m", "ctxvision", "train", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=600):
    """Wait for a run; returns what it still had to say. Nothing of it may be left."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # torchrun's processes have groups of their own
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        raise
    return said


def wait_for(process, text):
    """Read what a run says up to a line with this text; returns all of it."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was never said:\n{said}")


def descendants(pid):
    """Return the living children of a process, and theirs."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(child)]
    return found


def all_gone(pids, seconds=60):
    """Tell whether processes end within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def weights(folder, name="last"):
    return torch.load(f"{folder}/checkpoints/{name}.ckpt", weights_only=True)


def assert_same_weights(one, other):
    """Weights and their averages are the same to the bit."""
    a, b = weights(one), weights(other)
    assert a["global_step"] == b["global_step"]
    for part in ("state_dict", "current_model_state"):
        ours, theirs = a.get(part, {}), b.get(part, {})
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
