"""`ctxvision compare`: runs of every task beside each other."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from _checkpoints import detection_task, segmentation_task, video_task, write_classifier
from ctxvision.cli import main
from ctxvision.evaluation import compare_runs
from ctxvision.runs import RunError
from ctxvision.tasks.checkpoint_file import save_checkpoint


def write_run(folder, task, metrics, **settings):
    """Write a run folder: metrics are columns of numbers, one for each epoch."""
    (folder / "checkpoints").mkdir(parents=True)
    contents = {"hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}
    save_checkpoint({"ctxvision": {"task": task.kind}, **contents}, folder / "checkpoints" / "best.ckpt")
    settings = {"model": task.model_name, "task": task.kind, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = [["epoch", *metrics, "seconds"]]
    rows += [[number, *values, 30] for number, values in enumerate(zip(*metrics.values(), strict=True), 1)]
    (folder / "metrics.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = write_classifier(tmp_path / "x.ckpt")
    settings = {"data": "photos", "epochs": 2, "lr": 0.1, "batch_size": 8, "out": "a", "workers": 1}
    write_run(Path("a"), plain, {"val_loss": [2, 1], "val_top1": [0.5, 0.7512]}, **settings)
    other = settings | {"lr": 0.2, "out": "b", "workers": 9, "batch_size": 8.0}
    write_run(Path("b"), plain, {"val_loss": [1, 2], "val_top1": [0.7, 0.6]}, **other)
    return plain


def test_only_settings_that_differ_are_shown(runs):
    found = compare_runs(["a", "b"], against="b")
    assert found.settings == {"lr": (0.2, 0.1)}
    first, second = found.rows()
    count = sum(p.numel() for p in runs.model.parameters())
    assert second == {
        "run": "a", "model": "test_resnet", "lr": 0.1, "metric": "top-1", "best": 75.12, "difference": 5.12,
        "best_epoch": 2, "epochs": 2, "parameters_m": round(count / 1e6, 3), "minutes": 1.0,
    }  # fmt: skip
    assert (first["run"], first["best"], first["best_epoch"], first["difference"]) == ("b", 70.0, 1, 0.0)
    assert found.notes() == []


def test_every_task_has_its_metric(tmp_path):
    tasks = {
        "detection": (detection_task("faster_rcnn"), "val_box_ap", "box AP"),
        "segmentation": (segmentation_task(), "val_miou", "mIoU"),
        "video": (video_task(), "val_top1", "top-1"),
    }
    for name, (task, column, _) in tasks.items():
        write_run(tmp_path / name, task, {column: ["", 0.25]}, data=name)
    found = compare_runs([tmp_path / name for name in tasks], against=tmp_path / "video")
    assert {(run.task, run.metric, run.best, run.best_epoch) for run in found.runs} == {
        (name, words, 0.25, 2) for name, (_, _, words) in tasks.items()
    }
    assert [row["difference"] for row in found.rows()] == [0.0, None, None]
    assert "several tasks" in found.notes()[0]
    write_run(tmp_path / "images", write_classifier(tmp_path / "x.ckpt"), {"val_top1": [0.5]}, clip_grad=math.inf)
    rows = compare_runs([tmp_path / "images"], against=tmp_path / "video").rows()
    assert [row["difference"] for row in rows] == [0.0, None], "of the same name is not of the same task"


def test_formats_and_notes(runs, capsys):
    shutil.copytree("a", "c|d")
    text = Path("c|d/config.yaml").read_text().replace("photos", "others")
    Path("c|d/config.yaml").write_text(text)
    Path("c|d/metrics.csv").write_text("epoch,val_top1\n1,\n")
    assert main(["compare", "a", "b", "c|d", "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "run,model,data,lr,metric,best,best_epoch,epochs,parameters_m,minutes"
    assert "the runs are of different data" in printed.err
    assert "1 to 2 epochs" in printed.err
    assert main(["compare", "a", "c|d", "--format", "markdown", "--out", "table.md"]) == 0
    lines = Path("table.md").read_text().splitlines()
    assert [line.count("|") for line in lines] == [10] * 4
    assert lines[3].startswith("| c&#124;d | test\\_resnet | others | top-1 | – | – | 1 |")
    assert main(["compare", "a", "b", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["best"] == 70.0
    assert main(["compare", "a", "b", "--against", "b"]) == 0
    table = capsys.readouterr().out
    assert "5.12" in table
    assert "difference" in table


def test_a_damaged_checkpoint_leaves_the_curve(runs, caplog):
    Path("b/checkpoints/best.ckpt").write_bytes(b"x")
    row = compare_runs(["a", "b"]).rows()[1]
    assert (row["best"], row["parameters_m"]) == (70.0, None)


def test_no_run_is_named(runs, capsys):
    with pytest.raises(RunError, match="no run to compare"):
        compare_runs([])
    assert main(["compare", "a", "nowhere"]) == 1
    assert capsys.readouterr().err == "ctxvision: error: nowhere: no such run folder or checkpoint\n"
