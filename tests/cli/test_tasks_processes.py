"""Detection, segmentation and video in two processes: each sees its share, and the metric is that of one."""

import csv
import json

import pytest

from _processes import finish, start
from ctxvision.cli import main

pytestmark = pytest.mark.process

SCENES = "digits-scenes#train=8,val=5,size=64"
ALONE = {
    "detect": ("box_ap", lambda numbers: numbers["box"]["ap"]),
    "segment": ("miou", lambda numbers: numbers["miou"]),
    "video": ("top1", lambda numbers: numbers["networks"][0]["top1"]),
}
RUNS = {
    "detect": ("resnet10t", SCENES, ["--detector=mask_rcnn", "--width=16", "--hidden=32", "--norm=batch"]),
    "segment": ("test_resnet", SCENES, ["--decoder-args={pyramid_channels: 16, channels: 16}"]),
    "video": ("test_resnet", "moving-digits#train=16,val=9", ["--frames=4"]),
}


@pytest.mark.parametrize("task", RUNS)
def test_two_processes_validate_like_one(task, tmp_path):
    """Odd numbers of validation samples: nothing may be counted twice to fill a share.

    A detector finds next to nothing after so few steps; how its processes share images, `test_metric` tests.
    """
    (model, data, options), (metric, alone) = RUNS[task], ALONE[task]
    process = start(
        model, data, f"--task={task}", "--epochs=1", *options, "--batch-size=2", "--device=cpu",
        "--devices=2", "--lr=0.003", "--warmup-epochs=0", "--logger=csv", "--pictures=false",
        f"--out={tmp_path / 'run'}",
    )  # fmt: skip
    said = finish(process)
    assert process.returncode == 0, said
    assert "2 devices" in said
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1"]
    out = tmp_path / "one.json"
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert main(["evaluate", str(checkpoint), data, f"--json={out}"]) == 0
    numbers = json.loads(out.read_text())
    assert float(rows[-1][f"val_{metric}"]) == pytest.approx(alone(numbers), abs=1e-5)
