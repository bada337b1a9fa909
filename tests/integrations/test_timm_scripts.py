"""timm's scripts on our names; they come with its repository, not with the package. TIMM_SCRIPTS names a clone.

`make test-integrations TIMM_SCRIPTS=FOLDER` gives it; without it these tests are deselected.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from _pictures import make_folder

pytestmark = pytest.mark.process
NETWORKS = ("cotnet_micro", "rednet_micro", "contextual_convnext_micro")
SIZE = ("--img-size", "64")
# the scripts know no import of others; a module that Python itself imports at its start does that
WITH_US = "import sys, runpy, ctxvision; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture(scope="session")
def scripts():
    folder = os.environ["TIMM_SCRIPTS"]
    assert Path(folder, "train.py").is_file(), f"TIMM_SCRIPTS={folder} holds no train.py"
    return Path(folder)


@pytest.fixture(scope="session")
def pictures(made_once):
    def make(root):
        for split in ("train", "validation"):
            make_folder(root / split, {"ant": 4, "bee": 4})
        for picture in list(root.glob("*/*/*")):  # inference.py counts on names that are not used twice
            picture.rename(picture.with_name(f"{picture.parent.name}-{picture.name}"))

    return made_once("timm-pictures", make)


def run(script, *words, cwd):
    done = subprocess.run(
        [sys.executable, "-c", WITH_US, str(script), *map(str, words)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


FLAGS = {
    "plain": [],
    "init": ["--head-init-scale", "0.1", "--head-init-bias", "-1"],
    "average": ["--model-ema", "--amp", "--amp-dtype", "bfloat16", "--channels-last", "--clip-grad", "1"],
    "layers": ["--layer-decay", "0.7", "--opt", "adamw", "--grad-checkpointing", "--drop-path", "0.1"],
    "loss": ["--bce-loss", "--mixup", "0.2", "--cutmix", "0.5", "--opt", "muon"],
}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_train_then_validate(scripts, pictures, network, flags, tmp_path):
    common = ("--model", network, "--num-classes", 2, *SIZE, "--workers", 0, "--device", "cpu", "-b", 4)
    words = (
        "--data-dir",
        pictures,
        *common,
        "--epochs",
        1,
        "--output",
        tmp_path,
        "--experiment",
        "run",
        *FLAGS[flags],
    )
    run(scripts / "train.py", *words, cwd=tmp_path)
    rows = list(csv.DictReader((tmp_path / "run" / "summary.csv").open()))
    assert len(rows) == 1
    assert float(rows[0]["train_loss"]) > 0
    if flags == "plain":
        checkpoint = tmp_path / "run" / "last.pth.tar"
        found = run(
            scripts / "validate.py", "--data-dir", pictures, *common, "--checkpoint", checkpoint, cwd=tmp_path
        )
        assert '"top1"' in found


@pytest.mark.parametrize("network", NETWORKS)
def test_benchmark_counts_by_fvcore(scripts, network, tmp_path):
    words = ("--model", network, *SIZE, "-b", 2, "--num-warm-iter", 1, "--num-bench-iter", 5, "--device", "cpu")
    found = run(scripts / "benchmark.py", *words, "--bench", "inference", cwd=tmp_path)
    assert '"infer_gmacs"' in found


def weights_of(network, classes, folder):
    """Write weights; without a file these scripts ask for pretrained ones."""
    import timm

    import ctxvision  # noqa: F401

    torch.save(timm.create_model(network, num_classes=classes).state_dict(), folder / "net.pth")
    return folder / "net.pth"


@pytest.mark.parametrize("network", NETWORKS)
def test_inference_writes_its_answers(scripts, pictures, network, tmp_path):
    words = ("--data-dir", pictures / "validation", "--model", network, "--num-classes", 2, *SIZE, "-b", 4)
    more = ("--workers", 0, "--device", "cpu", "--results-dir", tmp_path, "--topk", 2)
    more += ("--checkpoint", weights_of(network, 2, tmp_path))
    run(scripts / "inference.py", *words, *more, cwd=tmp_path)
    assert list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize("exporter", ["--dynamo", "--no-dynamo"])
@pytest.mark.parametrize("network", NETWORKS)
def test_onnx_export_checks_its_file(scripts, network, exporter, tmp_path):
    more = ["--dynamo"] if exporter == "--dynamo" else []
    more += ["--checkpoint", weights_of(network, 5, tmp_path)]
    words = ("net.onnx", "--model", network, "--num-classes", 5, "--img-size", 64, "--check-forward", *more)
    run(scripts / "onnx_export.py", *words, cwd=tmp_path)
    assert (tmp_path / "net.onnx").stat().st_size > 100_000
