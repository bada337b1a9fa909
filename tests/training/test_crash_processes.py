"""Two processes train to the weights of one that takes the whole batch."""

import os
import subprocess
import sys

import pytest
import torch

from _pictures import make_folder
from _processes import ABSENT
from ctxvision.cli import main

pytestmark = pytest.mark.process

FOLDER = {"train/cat": 12, "train/dog": 12, "val/cat": 6, "val/dog": 6}
# test_convnext normalises layer by layer: batch normalisation on the CPU sees the images of one process only
WORDS = ["train", "test_convnext", "data", "--image-size=32", "--batch-size=8", "--epochs=2", "--device=cpu"]
WORDS += [
    "--workers=0",
    "--precision=64-true",
    "--optimizer=sgd",
    "--lr=0.05",
    "--ema=0.9",
    "--random-erasing=0.3",
    "--pictures=false",
]


def test_two_processes_train_to_the_weights_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "data", FOLDER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ABSENT}
    words = [sys.executable, "-m", "ctxvision", *WORDS, "--devices=2", "--out=two"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert main([*WORDS, "--out=one"]) == 0
    one, two = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 6
    for part in ("state_dict", "current_model_state"):
        for name, value in one[part].items():
            assert value.dtype == torch.float64 or not value.is_floating_point()
            torch.testing.assert_close(two[part][name], value, rtol=1e-11, atol=1e-13)
    moved = max(
        float((one["current_model_state"][name] - value).abs().max()) for name, value in one["state_dict"].items()
    )
    assert moved > 1e-4  # the averaged weights lag behind
    means = [state["epoch_so_far"]["loss"] / state["epoch_so_far"]["images"] for state in (one, two)]
    assert means[0] == pytest.approx(means[1], rel=1e-6)
