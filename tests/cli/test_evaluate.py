"""``ctxvision evaluate``: what it writes, numbered folders, ImageNet-ReaL, and every kind of mistake."""

import json
import os
import re

import pytest
import torch

from _pictures import make_folder, picture
from ctxvision._cli.messages import as_json
from ctxvision.cli import main
from ctxvision.evaluation import EvaluationError
from ctxvision.evaluation.imagenet import folders_by_class
from ctxvision.tasks import ClassificationTask

HOSTILE = '<script>alert("1")'
SYNSETS = [f"n{i:08d}" for i in range(1000)]


def write_checkpoint(path, names, model="test_resnet"):
    torch.manual_seed(0)
    spec = {"class_names": list(names), "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3}
    task = ClassificationTask(model, spec)
    checkpoint = {"ctxvision": {}, "hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}
    torch.save(checkpoint, path)
    return path


def run(capsys, *words):
    code = main(["evaluate", *map(str, words), "--device=cpu", "--workers=0"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("imagenet") / "a.ckpt", SYNSETS)


@pytest.mark.parametrize("model", ["test_resnet", "contextual_convnext_micro"])
def test_json_and_page(capsys, tmp_path, model):
    names = ["ant", "bee", "cat", "dog", "emu", "fox", HOSTILE]
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", names, model)
    data = make_folder(tmp_path / "data", dict.fromkeys(names[1:], 3))
    words = (checkpoint, data, "--json", tmp_path / "e.json", "--html", tmp_path / "e.html", "--worst=4")
    code, out, _ = run(capsys, *words, "--batch-size=8")
    assert code == 0
    numbers = json.loads((tmp_path / "e.json").read_text())
    text = (tmp_path / "e.html").read_text()
    assert numbers["schema_version"] == 1
    assert numbers["images"] == 18
    assert numbers["classes"][0]["images"] == 0
    assert [len(row) for row in numbers["confusion"]] == [7] * 7
    assert sum(map(sum, numbers["confusion"])) == 18
    losses = [entry["loss"] for entry in numbers["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 4
    assert all(entry["file"].startswith(entry["truth"]) for entry in numbers["worst"])
    speed = numbers["throughput"]
    assert speed["network"]["images"] == speed["with_decoding"]["images"] == 10
    assert speed["network"]["images_per_second"] >= speed["with_decoding"]["images_per_second"]
    assert (numbers["funnel"] is None) == (model == "test_resnet")
    if numbers["funnel"]:
        head = numbers["funnel"]["stages"][-1]
        assert head["survived"] == numbers["right"]
        assert numbers["funnel"]["temperature"] == pytest.approx(0.07, rel=0.2)
        assert "temperature" in text
    assert f"top-1 {numbers['top1']:.2%}" in out
    assert "<script" not in text
    assert "&lt;script" in text
    assert text.count("<img") == text.count('src="data:image/png;base64,') == 4
    assert not re.search(r"https?:|@import|url\(|<link", text)
    for opened in ("section", "table", "figure", "svg", "g", "td", "ul", "li"):
        assert len(re.findall(rf"<{opened}[ >]", text)) == text.count(f"</{opened}>")


def test_imagenet_v2_and_real(imagenet, capsys, tmp_path):
    """Folders 0 … 999, most of them with one image; and the same answers against several labels."""
    data = tmp_path / "v2"
    for index in range(1000):
        (data / str(index)).mkdir(parents=True)
    for index in (0, 2, 10, 999):
        picture(seed=index).save(data / str(index) / f"ILSVRC2012_val_{index + 1:08d}.png")
    (tmp_path / "real.json").write_text(json.dumps([[]] * 10 + [list(range(1000))] + [[]] * 988 + [[5]]))
    report, page = tmp_path / "e.json", tmp_path / "e.html"
    words = (imagenet, data, "--real", tmp_path / "real.json", "--json", report, "--html", page)
    code, out, err = run(capsys, *words)
    assert code == 0
    assert "folders are numbers of classes; 0 is 'n00000000'" in err
    numbers = json.loads(report.read_text())
    counts = {row["name"]: row["images"] for row in numbers["classes"] if row["images"]}
    assert counts == {SYNSETS[i]: 1 for i in (0, 2, 10, 999)}
    real = numbers["imagenet_real"]
    assert (real["images"], real["skipped"]) == (2, 2)
    assert real["right"] >= 1
    assert f"ImageNet-ReaL {real['top1']:.2%} of 2 images" in out
    assert 'class="matrix-picture"' in page.read_text()


def test_folders_in_the_order_of_the_synsets(tmp_path):
    for name in ("0", "1", "02"):
        (tmp_path / name).mkdir()
    names = ["x (n00000009)", "n00000005", "n00000001"]
    assert folders_by_class(str(tmp_path), names, forced=False) == ("02", "1", "0")
    assert folders_by_class(str(tmp_path), ["b", "c", "a"], forced=False) == ("0", "1", "02")
    assert folders_by_class(str(tmp_path), ["0", "1", "02"], forced=False) is None
    assert folders_by_class(str(tmp_path), list("abcd"), forced=False) is None
    assert folders_by_class(str(tmp_path), list("abcd"), forced=True) == ("0", "1", "02", "3")
    assert folders_by_class("digits", names, forced=False) is None
    with pytest.raises(EvaluationError, match="02 is beyond the network's 2 classes"):
        folders_by_class(str(tmp_path), list("ab"), forced=True)
    (tmp_path / "cat").mkdir()
    assert folders_by_class(str(tmp_path), names, forced=False) is None
    with pytest.raises(EvaluationError, match="needs a folder of folders"):
        folders_by_class(str(tmp_path), names, forced=True)


def test_nan_is_refused_and_nothing_written(capsys, tmp_path):
    path = write_checkpoint(tmp_path / "a.ckpt", ["cat", "dog"])
    checkpoint = torch.load(path)
    for name, value in checkpoint["state_dict"].items():
        if name.endswith(("weight", "bias")):
            value.fill_(3e38)  # a number, but what is computed with it overflows
    torch.save(checkpoint, path)
    data = make_folder(tmp_path / "data", {"cat": 2, "dog": 1})
    code, out, err = run(capsys, path, data, "--json", tmp_path / "e.json", "--html", tmp_path / "e.html")
    assert (code, out) == (1, "")
    assert f"{data}: cat/000.png: the output of the network is NaN or infinite" in err
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "data"]


def test_a_full_disk_leaves_the_old_files(capsys, tmp_path, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", ["cat", "dog"])
    data = make_folder(tmp_path / "data", {"cat": 2, "dog": 1})
    (tmp_path / "e.json").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    code, _, err = run(capsys, checkpoint, data, "--json", tmp_path / "e.json")
    assert code == 1
    assert "no space left" in err
    assert (tmp_path / "e.json").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "data", "e.json"]


@pytest.mark.parametrize(
    ("options", "reason", "code"),
    [
        ("--json none/e.json", "none/e.json: cannot be written (there is no folder none)", 1),
        ("--html .", ".: cannot be written (is a folder)", 1),
        ("--html e --json ./e", "must be different files", 2),
        ("--worst=-1", "--worst: must be a whole number of at least 0, got '-1'", 2),
        ("--real none.json", "none.json: no such file or directory", 1),
        ("--real real.json", "needs a network of ImageNet's 1000 classes", 1),
        ("--labels-by-index", "needs a folder of folders", 1),
        ("--device=quantum", "quantum", 1),
    ],
)
def test_mistakes_come_before_the_work(capsys, tmp_path, monkeypatch, options, reason, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ctxvision.evaluation.loop.score", None)
    write_checkpoint("a.ckpt", ["cat", "dog"])
    make_folder(tmp_path / "data", {"cat": 2, "dog": 2})
    (tmp_path / "real.json").write_text("[[0]]")
    words = ["evaluate", "a.ckpt", "data", *options.split()]
    assert main(words) == code
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == ["a.ckpt", "data", "real.json"]


def test_json_keeps_a_matrix_readable():
    numbers = {"a": [[1, 2], [3, 4]], "b": {"c": None}, "d": [], "e": [0.5]}
    text = as_json(numbers)
    assert json.loads(text) == numbers
    assert "\n  [1, 2],\n  [3, 4]\n" in text
    with pytest.raises(ValueError, match="JSON compliant"):
        as_json({"a": float("nan")})
