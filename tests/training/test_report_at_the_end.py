"""``ctxvision train``: curves while it runs, confusion matrix and worst images at its end."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from _pictures import make_folder
from _processes import ABSENT
from ctxvision.cli import main
from ctxvision.tasks import ClassificationTask
from ctxvision.training.callbacks import Curves

pytestmark = pytest.mark.slow

SMALL = ["--image-size=16", "--batch-size=256", "--device=cpu", "--lr=0.01", "--logger=csv"]
DIGITS = ["test_resnet", "digits", *SMALL]
MADE = {"curves.png", "report.html", "report.json"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*words):
    return main(["train", *map(str, words)])


def report(folder):
    numbers = json.loads(Path(folder, "report.json").read_text())
    return {name: value for name, value in numbers.items() if name != "throughput"}


def test_the_report_is_of_the_best_checkpoint(capsys):
    assert train(*DIGITS, "--epochs=2", "--out=run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "checkpoint run/checkpoints/best.ckpt"
    with Image.open("run/curves.png") as picture:
        picture.load()
    Path("again").mkdir()
    assert main(["report", "run", "--out=again/report.html"]) == 0
    assert report("run") == report("again")
    assert "Validation accuracy" in Path("run/report.html").read_text()
    assert set(os.listdir("run")) >= MADE
    assert not [name for name in os.listdir("run") if ".part" in name or name.startswith(("confusion", "worst"))]


def test_no_pictures(capsys):
    assert train(*DIGITS, "--epochs=1", "--out=run", "--pictures=false") == 0
    assert not MADE & set(os.listdir("run"))


def test_a_run_from_before_is_resumed_and_reported(capsys):
    """A contextual one, whose metrics.csv lacks the columns of now."""
    words = ["contextual_convnext_micro", "digits", "--batch-size=719", "--device=cpu", "--logger=csv"]
    assert train(*words, "--epochs=1", "--out=run") == 0
    for name in (*MADE, "environment.json"):
        os.remove(f"run/{name}")
    old = ("epoch", "step", "lr", "train_loss", "val_loss", "val_top1", "val_top5", "seconds")
    with open("run/metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["val_recall_4"]) == pytest.approx(float(row["val_top5"]), abs=1e-5)  # five are left
    assert 0.01 < float(row["temperature"]) < 0.1
    Path("run/metrics.csv").write_text(f"{','.join(old)}\n{','.join(row[name] for name in old)}\n")
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    Path("run/config.yaml").write_text(
        yaml.safe_dump({k: v for k, v in config.items() if k not in ("logger", "pictures")})
    )
    assert main(["report", "run", "--out=old.html"]) == 0
    assert "Recall of the class sets" not in Path("old.html").read_text()
    assert train("--resume=run", "--epochs=2") == 0
    with open("run/metrics.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["val_recall_4"], first["val_top1"]) == ("", row["val_top1"])
    assert 0 <= float(second["val_recall_4"]) <= 1
    assert set(os.listdir("run")) >= MADE
    assert len(json.loads(Path("run/environment.json").read_text())) == 1
    assert main(["report", "run", "--out=new.html"]) == 0
    assert "Recall of the class sets" in Path("new.html").read_text()
    assert "Temperature τ" in Path("new.html").read_text()
    curve = json.loads(Path("new.json").read_text())["training"]["curve"]
    assert [sorted(epoch["recalls"]) for epoch in curve] == [[], ["2", "3", "4"]]


def test_metrics_of_other_networks_are_as_they_were(capsys):
    assert train(*DIGITS, "--epochs=1", "--out=run", "--pictures=false") == 0
    header = Path("run/metrics.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train_loss,val_loss,val_top1,val_top5,seconds"


def test_a_stopped_run_has_its_curves(monkeypatch, capsys):
    original, calls = ClassificationTask.training_step, []

    def patched(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", patched)
    assert train(*DIGITS, "--epochs=3", "--out=run") == 130
    assert MADE & set(os.listdir("run")) == {"curves.png"}


def test_drawing_takes_little_of_the_time(monkeypatch, tmp_path):
    """Epochs of 10 s, drawings of 1 s: the clock is ours."""
    now, drawn = [0.0], []

    def drawing(epochs, columns):
        now[0] += 1
        drawn.append(len(epochs))
        return b"picture"

    monkeypatch.setattr("ctxvision.plots.curves.draw_curves", drawing)
    metrics = SimpleNamespace(rows=[])
    curves = Curves(tmp_path / "curves.png", metrics, clock=lambda: now[0])
    trainer = SimpleNamespace(is_global_zero=True)
    curves.on_train_start(trainer, None)
    for epoch in range(1, 31):
        now[0] += 10
        metrics.rows.append({"epoch": epoch, "step": epoch, "lr": "0.1", "seconds": "10"})
        curves.on_train_epoch_end(trainer, None)
    assert 3 <= len(drawn) <= 6
    curves.on_fit_end(trainer, None)
    curves.on_fit_end(trainer, None)
    assert drawn[-1] == 30
    assert drawn == sorted(set(drawn))
    assert (tmp_path / "curves.png").read_bytes() == b"picture"


def test_what_fails_at_the_end_does_not_fail_the_run(monkeypatch, capsys):
    def failing(*args, **options):
        raise KeyError("a bug of a picture")

    monkeypatch.setattr("ctxvision.pages.report.make_report", failing)
    monkeypatch.setattr("ctxvision.plots.curves.draw_curves", failing)
    assert train(*DIGITS, "--epochs=1", "--out=run") == 0
    captured = capsys.readouterr()
    reason = "could not be made: unexpected KeyError: 'a bug of a picture'"
    assert f"run/curves.png {reason}" in captured.err
    assert "run/report.html could not be made: 'a bug of a picture'; `ctxvision report` makes it" in captured.err
    assert captured.out.splitlines()[-1] == "checkpoint run/checkpoints/best.ckpt"


@pytest.mark.process
def test_two_processes_report_once_and_see_every_image(tmp_path):
    make_folder(tmp_path / "data", {"train/x": 8, "train/y": 8, "val/x": 5, "val/y": 4})
    broken = tmp_path / "data" / "val" / "y" / "broken.png"
    shutil.copy(__file__, broken)
    words = [sys.executable, "-m", "ctxvision", "train", "test_resnet", "data", "--image-size=16", "--workers=0"]
    words += ["--batch-size=4", "--devices=2", "--device=cpu", "--epochs=1", "--out=run", "--logger=csv"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ABSENT}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert set(os.listdir("run")) >= MADE
    confusion = report("run")["confusion"]
    assert [sum(row) for row in confusion] == [5, 4]
    assert done.stderr.count("broken.png") == 1
    assert len(json.loads(Path("run/environment.json").read_text())) == 1
