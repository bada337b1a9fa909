"""The loader's benchmark counts right and says what follows; nothing here depends on the machine's speed."""

import re
import sys
from pathlib import Path

import pytest
import torch

from _pictures import make_folder
from ctxvision.data import ImageData

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.cli import main
from benchmarks.loader import loader_rate, verdict, write_pictures


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_every_batch_after_the_warm_up_is_counted(tmp_path, workers):
    make_folder(tmp_path, {"cat": 10, "dog": 10})
    data = ImageData(tmp_path, image_size=16, batch_size=4, workers=workers, prefetch=1)
    ticks = iter(range(100))
    rate = loader_rate(data, 5, clock=lambda: next(ticks))  # starts at 0, then one tick a batch: 5 batches
    assert rate.images == 5 * 4
    assert rate.seconds == 6
    assert rate.per_second == pytest.approx(20 / 6)


@pytest.mark.parametrize(
    ("network", "text"),
    [(80, "--workers 1 keeps up"), (90, "--workers 2 keeps up"), (400, "2 reach 50% of what the network takes")],
)
def test_verdict(network, text):
    assert text in verdict({0: 50, 1: 100, 2: 200}, network)


def test_pictures_are_of_the_usual_size(tmp_path):
    files = list(write_pictures(tmp_path, 4).rglob("*.jpg"))
    assert len(files) == 4
    assert all(60_000 < file.stat().st_size < 200_000 for file in files)


def test_command(tmp_path, capsys):
    make_folder(tmp_path, {"cat": 6, "dog": 6})
    words = [
        "loader",
        "resnet10t",
        str(tmp_path),
        "--workers",
        "0",
        "--image-size",
        "32",
        "--batch",
        "2",
        "--seconds",
        "0.01",
    ]
    assert main([*words, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "loader, 0 workers: " in out
    assert "resnet10t trains on cpu: " in out
    loaded, trained = (float(re.search(rf"{what}: (\d+) images/s", out)[1]) for what in ("workers", "on cpu"))
    share = float(re.search(r"0 workers: ([\d.]+) of what it takes", out)[1])
    # the rates are printed as whole numbers
    assert (loaded - 0.5) / (trained + 0.5) - 0.01 <= share <= (loaded + 0.5) / max(trained - 0.5, 1e-9) + 0.01
    assert main(["loader", "resnet10t", str(tmp_path / "none"), "--seconds", "1"]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["loader", "resnet10t", "--workers", "-1"]) == 1
    assert torch.is_grad_enabled()
