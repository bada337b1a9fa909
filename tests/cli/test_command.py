"""The command line but for training: evaluate, predict, models, convert, and every kind of mistake."""

import csv
import io
import json
import os
import pickle
import subprocess
import sys

import pytest

from _pictures import BAD, add_bad_files, make_folder
from ctxvision._extras import install_command
from ctxvision.cli import main

CLASSES = {"cat": 12, "dog": 12}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that tells red pictures from green ones, and what it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    make_folder(folder / "data", CLASSES)
    words = [
        "train",
        "test_resnet",
        folder / "data",
        "--image-size=16",
        "--batch-size=8",
        "--epochs=10",
        "--lr=0.01",
    ]
    assert main([*map(str, words), "--device=cpu", "--workers=0", f"--out={folder / 'run'}"]) == 0
    return folder


@pytest.fixture
def checkpoint(trained):
    return str(trained / "run" / "checkpoints" / "best.ckpt")


def run(capsys, *words):
    code = main([*map(str, words)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_evaluate_holds_out_what_training_held_out(trained, checkpoint, capsys, tmp_path):
    report = tmp_path / "report.json"
    code, out, _ = run(capsys, "evaluate", checkpoint, trained / "data", "--json", report)
    assert code == 0
    result = json.loads(report.read_text())
    assert result["split"] == "val"
    assert result["images"] == 4
    assert result["top1"] == 1
    assert [(c["name"], c["images"], c["top1"]) for c in result["classes"]] == [(name, 2, 1) for name in CLASSES]
    assert f"top-1 100.00% of 4 images (val of {trained / 'data'})" in out


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("all", 24)])
def test_evaluate_another_split(trained, checkpoint, capsys, split, count):
    _, out, _ = run(capsys, "evaluate", checkpoint, trained / "data", "--split", split)
    assert f"of {count} images ({split} of" in out


def test_evaluate_takes_all_of_an_unknown_folder(checkpoint, capsys, tmp_path):
    make_folder(tmp_path, {"cat": 3, "dog": 2})
    _, out, _ = run(capsys, "evaluate", checkpoint, tmp_path)
    assert "of 5 images (all of" in out


@pytest.mark.process
def test_evaluate_does_not_count_bad_images(checkpoint, capsys, tmp_path):
    make_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "val/cat": 3, "val/dog": 2})
    bad = add_bad_files(tmp_path / "val" / "dog")
    report = tmp_path / "report.json"
    for workers in (0, 2):
        code, out, err = run(capsys, "evaluate", checkpoint, tmp_path, "--json", report, "--workers", workers)
        assert code == 0
        assert "of 5 images (val of" in out
        assert all(err.count(f"ctxvision: skipped {path}: ") == 1 for path in bad)
        assert err.endswith(f"ctxvision: skipped {len(BAD)} bad images, not counted above\n")
        assert sorted(item["path"] for item in json.loads(report.read_text())["bad_images"]) == bad
    code, _, err = run(capsys, "evaluate", checkpoint, tmp_path, "--strict")
    assert code == 1
    assert any(f"ctxvision: error: {path}: " in err for path in bad)


def test_evaluate_names_unknown_classes(checkpoint, capsys, tmp_path):
    make_folder(tmp_path, {"cat": 3, "emu": 2})
    code, _, err = run(capsys, "evaluate", checkpoint, tmp_path)
    assert code == 1
    assert "the network has no class 'emu'; it has 'cat', 'dog'" in err
    code, _, err = run(capsys, "evaluate", checkpoint, "digits")
    assert code == 1
    assert "cat, dog" in err


def test_evaluate_by_name_where_classes_are_missing(checkpoint, capsys, tmp_path):
    make_folder(tmp_path, {"dog": 3})
    code, out, err = run(capsys, "evaluate", checkpoint, tmp_path)
    assert code == 0
    assert "no images of 'cat'" in err
    assert "top-1 100.00%" in out


def test_predict_table(trained, checkpoint, capsys):
    code, out, err = run(capsys, "predict", checkpoint, trained / "data" / "dog" / "000.png")
    assert code == 0
    assert not err
    assert out.startswith(f"{trained / 'data' / 'dog' / '000.png'}  dog ")
    assert "cat " in out


def test_predict_csv(trained, checkpoint, capsys):
    code, out, _ = run(capsys, "predict", checkpoint, trained / "data", "--format=csv", "--batch-size=5")
    assert code == 0
    table = list(csv.DictReader(io.StringIO(out)))
    assert list(table[0]) == ["image", "rank", "class", "probability"]
    assert len(table) == 2 * 24
    assert [row["image"] for row in table[::2]] == sorted(row["image"] for row in table[::2])
    assert all(row["class"] == row["image"].split("/")[-2] for row in table if row["rank"] == "1")
    sums = [
        float(a["probability"]) + float(b["probability"]) for a, b in zip(table[::2], table[1::2], strict=True)
    ]
    assert sums == pytest.approx([1] * 24, abs=1e-5)


def test_predict_json_and_top_k(trained, checkpoint, capsys):
    code, out, _ = run(capsys, "predict", checkpoint, trained / "data" / "cat", "--format=json", "--top-k=1")
    assert code == 0
    result = json.loads(out)
    assert len(result) == 12
    assert {p["class"] for item in result for p in item["predictions"]} == {"cat"}
    assert all(0.5 < p["probability"] <= 1 for item in result for p in item["predictions"])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
def test_predict_skips_bad_images(checkpoint, capsys, tmp_path, workers):
    make_folder(tmp_path, {"cat": 2})
    bad = add_bad_files(tmp_path / "cat")
    code, out, err = run(
        capsys, "predict", checkpoint, tmp_path, tmp_path / "none.png", "--format=csv", "--workers", workers
    )
    assert code == 0
    assert {row["image"] for row in csv.DictReader(io.StringIO(out))} == {
        str(tmp_path / "cat" / name) for name in ("000.png", "001.png")
    }
    assert all(f"ctxvision: skipped {path}: " in err for path in [*bad, tmp_path / "none.png"])
    assert err.endswith(f"skipped {len(BAD) + 1} bad images of {len(BAD) + 3}\n")


def test_predict_fails_where_nothing_can_be_read(checkpoint, capsys, tmp_path):
    add_bad_files(tmp_path)
    code, out, err = run(capsys, "predict", checkpoint, tmp_path)
    assert code == 1
    assert not out
    assert f"skipped {len(BAD)} bad images of {len(BAD)}" in err


def test_predict_strict_stops_and_leaves_no_file(checkpoint, capsys, tmp_path):
    make_folder(tmp_path / "data", {"cat": 2})
    add_bad_files(tmp_path / "data" / "cat")
    code, _, err = run(capsys, "predict", checkpoint, tmp_path / "data", "--strict", "--out", tmp_path / "p.csv")
    assert code == 1
    assert err.startswith("ctxvision: error: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["data"]


def test_predict_out_replaces_a_file_whole(trained, checkpoint, capsys, tmp_path):
    out = tmp_path / "p.json"
    out.write_text("old")
    words = ["predict", checkpoint, trained / "data" / "cat", "--format=json", "--out", out]
    assert run(capsys, *words)[:2] == (0, "")
    assert len(json.loads(out.read_text())) == 12
    assert os.listdir(tmp_path) == ["p.json"]
    code, _, err = run(capsys, *words[:-1], tmp_path / "none" / "p.json")
    assert code == 1
    assert "cannot be written (there is no folder" in err


def test_predict_takes_any_file_name(trained, checkpoint, capsysbinary, tmp_path):
    name = os.fsencode(tmp_path) + b'/odd \xff, "name"\n.png'
    with open(name, "wb") as file:
        file.write((trained / "data" / "cat" / "000.png").read_bytes())
    assert (
        main(["predict", checkpoint, os.fsdecode(name), "--format=csv", "--top-k=1", "--out", f"{tmp_path}/p"])
        == 0
    )
    text = (tmp_path / "p").read_bytes().decode(errors="surrogateescape")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert os.fsencode(row["image"]) == name


@pytest.mark.process
def test_predict_needs_nothing_but_the_checkpoint(trained, checkpoint, tmp_path):
    """A fresh process, elsewhere, with the checkpoint and one picture."""
    for source, name in ((checkpoint, "a.ckpt"), (trained / "data" / "dog" / "001.png", "a.png")):
        with open(source, "rb") as file:
            (tmp_path / name).write_bytes(file.read())
    command = [sys.executable, "-m", "ctxvision", "predict", "a.ckpt", "a.png", "--top-k=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a.png  dog ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "parse"), [("csv", lambda t: list(csv.DictReader(io.StringIO(t)))), ("json", json.loads)]
)
def test_models_as_data(capsys, format_, parse):
    code, out, _ = run(capsys, "models", "cotnet*", "--format", format_)
    assert code == 0
    rows = {row["name"]: row for row in parse(out)}
    assert set(rows) == {"cotnet50", "cotnet101", "cotnet_micro"}
    assert float(rows["cotnet50"]["params_m"]) == 22.222
    assert float(rows["cotnet50"]["gmacs"]) == pytest.approx(3.3, rel=0.03)
    assert "CoTNet" in rows["cotnet50"]["source"]


def test_models_as_a_table(capsys):
    _, out, _ = run(capsys, "models", "rednet26")
    assert out.splitlines()[0].split("  ")[0] == "model"
    assert "9.233" in out
    assert "75.96" in out


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "a.ckpt", "digits"],
        ["predict", "a.ckpt", "a.png"],
        ["convert", "a.ckpt", "b.safetensors", "--model", "rednet26"],
    ],
)
def test_code_in_a_file_is_refused(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    code, _, err = run(capsys, *command)
    assert code == 1
    assert err.startswith("ctxvision: error: a.ckpt: refused: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["bogus"], "there is no command 'bogus'", 2),
        (["evaluate", "none.ckpt"], "required: DATA", 2),
        (["evaluate", "none.ckpt", "digits"], "none.ckpt: no such file", 1),
        (["evaluate", "none.ckpt", "digits", "--batch-size=0"], "--batch-size: must be a whole number", 2),
        (["evaluate", "none.ckpt", "digits", "--batch-size=x"], "a whole number of at least 1, got 'x'", 2),
        (
            ["predict", "none.ckpt", "a.png", "--format=xml"],
            "--format: there is no 'xml'; there are table, csv,",
            2,
        ),
        (["predict", "none.ckpt", "a.png", "--format=jsn"], "there is no 'jsn', did you mean json?; there are", 2),
        (["predict", "none.ckpt", "a.png", "--top-k=0"], "--top-k", 2),
        (["predict", ".", "a.png"], ".: is a folder", 1),
        (["models", "zzz"], "no model matches 'zzz'", 1),
        (["convert", "none.pth", "out.safetensors", "--model=rednet26"], "none.pth: no such file", 1),
        (["convert", "none.pth", "out.safetensors", "--model=rednet27"], "did you mean rednet26", 1),
        (["convert", "none.pth", "out.safetensors"], "none.pth: no such file", 1),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, message, code):
    monkeypatch.chdir(tmp_path)
    got, out, err = run(capsys, *words)
    assert got == code
    assert not out
    assert err.startswith("ctxvision: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not os.listdir(tmp_path)


def test_bad_device(trained, checkpoint, capsys):
    code, _, err = run(capsys, "predict", checkpoint, trained / "data", "--device=quantum")
    assert code == 1
    assert "device 'quantum' cannot be used" in err


def test_empty_folder(checkpoint, capsys, tmp_path):
    code, _, err = run(capsys, "predict", checkpoint, tmp_path)
    assert code == 1
    assert f"{tmp_path}: no images in this folder" in err


def test_missing_extra_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    code, _, err = run(capsys, "train", "a.ckpt", "digits")
    assert code == 1
    assert err.count("\n") == 1
    assert install_command("train") in err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CTXVISION_DEBUG", "1")
    with pytest.raises(Exception, match="no such file"):
        main(["evaluate", "none.ckpt", "digits"])
