"""Detection, segmentation and video on the command line: train, resume, evaluate, predict, report, mistakes."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ctxvision.cli import main
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.registry import task_named
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

pytestmark = pytest.mark.slow

SCENES = "digits-scenes#train=8,val=4,size=64"
CLIPS = "moving-digits#train=16,val=8"
RUNS = {
    "detect": (SCENES, ["--detector=mask_rcnn", "--width=16", "--hidden=32", "--norm=batch", "--sampled-rois=16"]),
    "segment": (SCENES, ["--decoder-args={pyramid_channels: 16, channels: 16}"]),
    "video": (CLIPS, ["--frames=4"]),
}
COMMON = ["--batch-size=4", "--device=cpu", "--warmup-epochs=0", "--logger=csv"]
CLASSES = {"detect": DetectionTask, "segment": SegmentationTask, "video": VideoTask}
METRIC = {"detect": "val_box_ap", "segment": "val_miou", "video": "val_top1"}


def train(*words):
    return main(["train", *map(str, words)])


def words_of(task):
    data, options = RUNS[task]
    model = "resnet10t" if task == "detect" else "test_resnet"
    return [model, data, f"--task={task}", "--epochs=2", *options, *COMMON]


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """A run that was interrupted in its second epoch and resumed; returns the task and its folder."""
    task, steps = request.param, []
    folder = tmp_path_factory.mktemp(task) / "run"
    original = CLASSES[task].training_step

    def interrupted(self, batch, batch_idx):
        steps.append(batch_idx)
        if len(steps) == self.trainer.num_training_batches + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLASSES[task], "training_step", interrupted)
        assert train(*words_of(task), f"--out={folder}") == 130
    assert train(f"--resume={folder}") == 0
    return task, folder


def test_run_folder(run):
    task, folder = run
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["task"] == task_named(task)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row[METRIC[task]]) <= 1 for row in rows)
    assert (folder / "curves.png").is_file()
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    best = saved["callbacks"]["RunCheckpoints"]["best_value"]
    assert best == pytest.approx(max(float(row[METRIC[task]]) for row in rows), abs=1e-5)


def test_interrupted_run_ends_like_an_undisturbed_one(run, tmp_path):
    task, folder = run
    assert train(*words_of(task), "--pictures=false", f"--out={tmp_path / 'whole'}") == 0
    one, other = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (folder, tmp_path / "whole")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_evaluate(run, tmp_path, capsys):
    task, folder = run
    checkpoint, data = folder / "checkpoints" / "best.ckpt", RUNS[task][0]
    out = [f"--json={tmp_path / 'a.json'}", f"--html={tmp_path / 'a.html'}"]
    results = [f"--results={tmp_path / 'r.json'}"] if task == "detect" else []
    assert main(["evaluate", str(checkpoint), data, "--task", task, *out, *results]) == 0
    numbers = json.loads((tmp_path / "a.json").read_text())
    saved = torch.load(checkpoint, weights_only=True)["callbacks"]["RunCheckpoints"]["best_value"]
    found = {
        "detect": lambda: numbers["box"]["ap"],
        "segment": lambda: numbers["miou"],
        "video": lambda: numbers["networks"][0]["top1"],
    }[task]()
    assert found == pytest.approx(saved, abs=1e-6)
    page = (tmp_path / "a.html").read_text()
    assert "<script" not in page
    assert "https://" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "val of" in capsys.readouterr().out
    if task == "detect":
        assert isinstance(json.loads((tmp_path / "r.json").read_text()), list)
    other = "video" if task != "video" else "detect"
    assert main(["evaluate", str(checkpoint), data, "--task", other]) == 2
    assert f"its task is {task}, not {other}" in capsys.readouterr().err


def _files(task, folder):
    """Write what a network of this task takes, and something that is none."""
    folder.mkdir()
    if task == "video":
        from ctxvision.data.video.writing import write_video

        for name in ("a.mp4", "b.mp4"):
            write_video(folder / name, np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))
        (folder / "bad.mp4").write_bytes(b"hello")
    else:
        for name in ("a.png", "b.png"):
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(
                folder / name
            )
        (folder / "bad.png").write_bytes(b"hello")


def test_predict(run, tmp_path, capsys):
    task, folder = run
    checkpoint = str(folder / "checkpoints" / "best.ckpt")
    _files(task, tmp_path / "in")
    words = ["predict", checkpoint, str(tmp_path / "in"), "--format=json", f"--draw={tmp_path / 'drawn'}"]
    assert main([*words, *(["--threshold=0.0"] if task == "detect" else [])]) == 0
    said = capsys.readouterr()
    entries = json.loads(said.out)
    assert "bad." in said.err
    assert "skipped 1 bad file of 3" in said.err
    assert [Path(e["video" if task == "video" else "image"]).name[0] for e in entries] == ["a", "b"]
    assert all(Path(picture).stat().st_size for e in entries for picture in e["pictures"])
    endings = {"detect": [".png"], "segment": [".classes.png", ".overlay.png"], "video": [".mp4"]}[task]
    names = sorted(p.name for p in (tmp_path / "drawn").iterdir())
    assert names == [f"{stem}{ending}" for stem in "ab" for ending in endings]
    if task == "segment":
        classes = np.asarray(Image.open(tmp_path / "drawn" / "a.classes.png"))
        assert classes.shape == (48, 64)
        shares = {row["class"]: row["share"] for row in entries[0]["classes"]}
        assert sum(shares.values()) == pytest.approx(1)
    assert main(["predict", checkpoint, str(tmp_path / "in"), "--format=csv", f"--out={tmp_path / 'a.csv'}"]) == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        assert csv.DictReader(file).fieldnames[0] in ("image", "video")
    assert main(["predict", checkpoint, str(tmp_path / "in"), "--strict"]) == 1


def test_report(run, tmp_path, capsys):
    task, folder = run
    out = tmp_path / "report.html"
    assert main(["report", str(folder), f"--out={out}", "--images=2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert json.loads(out.with_suffix(".json").read_text())
    assert "<svg" in out.read_text()
    if task != "video":
        return
    assert main(["report", str(folder), "--against", str(folder), f"--out={out}"]) == 0
    assert len(json.loads(out.with_suffix(".json").read_text())["networks"]) == 2


def test_classifiers_refuse_what_is_for_others(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["test_resnet", "digits", "--image-size=16", "--batch-size=256", "--epochs=1", "--pictures=false"]
    assert train(*words, "--device=cpu", "--out=run") == 0
    checkpoint = "run/checkpoints/best.ckpt"
    Image.new("L", (8, 8)).save("a.png")
    assert main(["predict", checkpoint, "a.png", "--draw=d"]) == 2
    assert "leave out --draw" in capsys.readouterr().err
    assert main(["evaluate", checkpoint, "digits", "--results=r.json"]) == 2
    assert "--results is for detectors" in capsys.readouterr().err
    assert main(["evaluate", checkpoint, "digits", "--task=detect"]) == 2
    assert main(["predict", checkpoint, "a.png", "--crops=2"]) == 2
    assert "--crops: there is no '2'; there are 1, 3" in capsys.readouterr().err
    assert train("test_resnet", SCENES, "--task=detect", "--mixup=0.5") == 2
    assert "mixup" in capsys.readouterr().err
