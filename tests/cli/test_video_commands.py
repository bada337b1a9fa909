"""A folder of clips in awkward containers: train, evaluate, predict, explain."""

import json
from pathlib import Path

import pytest
from _videos import copy, moving, write

from ctxvision.cli import main

B_FRAMES = {"bf": "2"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two classes of clips, as data sets hold them, and what else lies about; all can be decoded."""
    root = tmp_path_factory.mktemp("clips")
    source = write(root / "source.mp4", moving(40), rate=25)
    for name in ("walk", "wave"):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        copy(source, folder / "cut.mp4", 1.0)
        copy(source, folder / "copied.avi")
        write(folder / "packed.avi", moving(30), "mpeg4", rate=25, coding=B_FRAMES)
        write(folder / "phone.3gp", moving(20))
        write(folder / "camera.m2ts", moving(30), "mpeg2video", rate=25, coding=B_FRAMES)
        write(folder / "old.wmv", moving(20), "wmv2")
        write(folder / "short.gif", moving(3), "gif", pixels="rgb8")
        (folder / "notes.txt").write_text("a note")
    return root / "data"


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "run"
    options = ["--epochs=1", "--frames=4", "--image-size=32", "--batch-size=4", "--warmup-epochs=0", "--workers=0"]
    words = ["test_resnet", str(clips), "--task=video", *options, "--device=cpu", "--logger=csv"]
    assert main(["train", *words, "--pictures=false", f"--out={folder}"]) == 0
    return folder


def test_train_and_evaluate(clips, run, tmp_path, capsys):
    assert main(["evaluate", str(run), str(clips), "--split=all", f"--json={tmp_path / 'scores.json'}"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "'videos': 14" in str(scores)  # not one is lost
    assert "left out: 2 .txt" in capsys.readouterr().err


def test_predict(clips, run, capsys):
    assert main(["predict", str(run), str(clips / "walk"), "--format=json"]) == 0
    said = capsys.readouterr()
    entries = json.loads(said.out)
    names = ["camera.m2ts", "copied.avi", "cut.mp4", "old.wmv", "packed.avi", "phone.3gp", "short.gif"]
    assert [Path(entry["video"]).name for entry in entries] == names
    assert [frame["frame"] for frame in entries[2]["frames"]] == [
        1,
        5,
        9,
        13,
    ]  # of 15: those cut away do not count
    assert "left out: 1 .txt" in said.err


def test_explain(clips, run, tmp_path):
    assert main(["explain", str(run), str(clips / "wave" / "copied.avi"), f"--out={tmp_path / 'explained'}"]) == 0
    assert list(tmp_path.rglob("*.html"))
