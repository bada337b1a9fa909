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
from ctxvision.training.pictures import Curves

pytestmark = pytest.mark.slow

SMALL = ["--image_size=16", "--batch_size=256", "--accelerator=cpu", "--lr=0.01", "--logger=csv"]
DIGITS = ["test_resnet", "digits", *SMALL]
DRAWN = {"curves.png", "confusion.png", "confusion.csv", "worst.png", "worst.json"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.pop("CTXVISION_RUN_FOLDER", None)


def train(*words):
    return main(["train", *map(str, words)])


def confusion(folder):
    with open(f"{folder}/confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    return rows[0][1:], [[int(n) for n in row[1:]] for row in rows[1:]]


def test_pictures_are_of_the_best_checkpoint(capsys):
    assert train(*DIGITS, "--epochs=2", "--out=run") == 0
    for name in ("curves", "confusion", "worst"):
        with Image.open(f"run/{name}.png") as picture:
            picture.load()
    main(["evaluate", "run/checkpoints/best.ckpt", "digits", "--json=e.json", "--accelerator=cpu"])
    evaluation = json.loads(Path("e.json").read_text())
    names, cells = confusion("run")
    assert names == list("0123456789")
    assert cells == evaluation["confusion"]
    worst = json.loads(Path("run/worst.json").read_text())
    assert len(worst) == 24
    assert [entry["position"] for entry in worst] == [entry["position"] for entry in evaluation["worst"]]
    assert {"file", "truth", "prediction", "loss"} <= worst[0].keys()
    assert not [name for name in os.listdir("run") if ".part" in name]


def test_no_pictures(capsys):
    assert train(*DIGITS, "--epochs=1", "--out=run", "--pictures=false") == 0
    assert not DRAWN & set(os.listdir("run"))


def test_a_run_from_before_is_resumed_and_reported(capsys):
    """A contextual one, whose metrics.csv lacks the columns of now."""
    words = ["contextual_convnext_micro", "digits", "--batch_size=719", "--accelerator=cpu", "--logger=csv"]
    assert train(*words, "--epochs=1", "--out=run") == 0
    for name in (*DRAWN, "environment.json"):
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
    assert set(os.listdir("run")) >= DRAWN
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
    assert DRAWN & set(os.listdir("run")) == {"curves.png"}


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

    monkeypatch.setattr("ctxvision.evaluation.classification.make_evaluation", failing)
    monkeypatch.setattr("ctxvision.plots.curves.draw_curves", failing)
    assert train(*DIGITS, "--epochs=1", "--out=run") == 0
    captured = capsys.readouterr()
    reason = "could not be made: unexpected KeyError: 'a bug of a picture'"
    assert f"run/curves.png {reason}" in captured.err
    assert f"pictures of the answers (ctxvision evaluate shows them too) {reason}" in captured.err
    assert captured.out.splitlines()[-1] == "checkpoint run/checkpoints/best.ckpt"


@pytest.mark.process
def test_two_processes_draw_once_and_see_every_image(tmp_path):
    make_folder(tmp_path / "data", {"train/x": 8, "train/y": 8, "val/x": 5, "val/y": 4})
    broken = tmp_path / "data" / "val" / "y" / "broken.png"
    shutil.copy(__file__, broken)
    words = [sys.executable, "-m", "ctxvision", "train", "test_resnet", "data", "--image_size=16", "--workers=0"]
    words += ["--batch_size=4", "--devices=2", "--accelerator=cpu", "--epochs=1", "--out=run", "--logger=csv"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ABSENT}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert set(os.listdir("run")) >= DRAWN
    _, cells = confusion("run")
    assert [sum(row) for row in cells] == [5, 4]
    assert done.stderr.count("broken.png") == 1
    worst = json.loads(Path("run/worst.json").read_text())
    assert sorted(Path(entry["file"]).parts[-2] for entry in worst) == ["x"] * 5 + ["y"] * 4
    assert len(json.loads(Path("run/environment.json").read_text())) == 1
