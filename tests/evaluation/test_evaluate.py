"""``evaluate`` from Python: what the command says, of every task and every kind of model file."""

import json
import os
from pathlib import Path

import pytest
import torch

from _checkpoints import write_classifier
from _pictures import make_folder
from ctxvision.cli import main
from ctxvision.data import DataError, open_data
from ctxvision.evaluation import PRECISIONS, EvaluationError, evaluate
from ctxvision.inference import open_predictor
from ctxvision.pages import render_scores
from ctxvision.runs import read_run

RUNS = Path(__file__).parents[1] / "old_runs"
DATA = {
    "classification": "digits",
    "detection": "digits-scenes#train=8,val=4",
    "segmentation": "digits-scenes#train=8,val=4",
    "video": "moving-digits#train=8,val=16",
}
TIMED = ("throughput", "images_per_second")
OF_MODULE = {
    "classification": {"checkpoint", "parameters", "loss", "funnel"},
    "detection": {"checkpoint", "parameters", "detector", "curve"},
    "segmentation": {"checkpoint", "parameters", "decoder", "training"},
    "video": {"checkpoint", "parameters", "name", "shift", "curve", "seconds"},
}


def untimed(numbers):
    return {name: value for name, value in numbers.items() if name not in TIMED}


@pytest.mark.parametrize("task", DATA)
def test_python_says_what_the_command_says(task, tmp_path, capsys):
    words = ["evaluate", str(RUNS / task), DATA[task], f"--json={tmp_path / 'a.json'}", "--device=cpu"]
    assert main([*words, "--worst=2"]) == 0
    said = capsys.readouterr().out.splitlines()
    scores = evaluate(open_predictor(RUNS / task), DATA[task], examples=2, run=read_run(RUNS / task))
    assert scores.task == task
    assert untimed(json.loads(json.dumps(scores.to_dict()))) == untimed(
        json.loads((tmp_path / "a.json").read_text())
    )
    assert scores.lines[-1] == said[-1]
    assert len(scores.lines) == len(said)
    assert repr(scores).endswith(f": {said[-1]}>")


@pytest.mark.parametrize("task", DATA)
def test_a_data_module_that_is_open_gives_the_same(task):
    predictor = open_predictor(RUNS / task)
    options = {"masks": True, "train": False} if task == "detection" else {}
    module = open_data(DATA[task], task, spec=predictor.data_spec, **options)
    opened = evaluate(predictor, module, examples=1)
    named = evaluate(predictor, DATA[task], examples=1, batch_size=module.eval_batch_size)
    # the first batch may come before the preparation, which rounds in another way
    near(untimed(opened.to_dict()), untimed(named.to_dict()), rel=1e-6)


def without(value, names):
    """Leave out what only a trained module can tell, however deep it lies."""
    if isinstance(value, dict):
        return {name: without(one, names) for name, one in value.items() if name not in names}
    return [without(one, names) for one in value] if isinstance(value, list) else value


def near(found, expected, rel=1e-3):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            near(found[name], value, rel)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            near(one, other, rel)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=rel / 10)
    else:
        assert found == expected


@pytest.mark.slow
# every task and both kinds of file; tests/inference has each kind for each task
@pytest.mark.parametrize(
    ("task", "ending"),
    [("classification", "onnx"), ("detection", "onnx"), ("segmentation", "pt2"), ("video", "pt2")],
)
def test_exported_files_have_the_numbers_of_the_checkpoint(task, ending, networks_of, exported, tmp_path):
    file, data = exported(task, f"net.{ending}"), DATA[task]
    numbers = tmp_path / "numbers.json"
    assert main(["evaluate", str(file), data, f"--json={numbers}", f"--html={tmp_path / 'page.html'}"]) == 0
    found = json.loads(numbers.read_text())
    expected = evaluate(open_predictor(networks_of(task) / "best.ckpt"), data).to_dict()
    left_out = {*OF_MODULE[task], *TIMED}
    near(without(found, left_out), without(expected, left_out))
    if task == "classification":
        assert (found["funnel"], found["loss"]) == (None, pytest.approx(found["cross_entropy"], rel=1e-6))
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_half_precision_on_the_cpu_is_bfloat16(tmp_path):
    write_classifier(tmp_path / "net.ckpt")
    data = make_folder(tmp_path / "data", dict.fromkeys("abc", 4))
    predictor = open_predictor(tmp_path / "net.ckpt", optimize="none")
    found = {name: evaluate(predictor, data, precision=name).numbers["cross_entropy"] for name in PRECISIONS}
    assert found["16-mixed"] == found["bf16-mixed"] != found["32"]
    assert found["bf16-mixed"] == pytest.approx(found["32"], rel=0.05)
    with pytest.raises(ValueError, match="precision must be one of 32, 16-mixed, bf16-mixed, got '64'"):
        evaluate(predictor, data, precision="64")


def test_bad_images_and_classes_without_images(tmp_path, caplog):
    write_classifier(tmp_path / "net.ckpt")
    data = make_folder(tmp_path / "data", {"a": 3, "b": 2})
    (Path(data) / "a" / "000.png").write_bytes(b"")
    predictor = open_predictor(tmp_path / "net.ckpt")
    scores = evaluate(predictor, data)
    assert (scores.numbers["images"], scores.skipped, scores.numbers["classes_left_out"]) == (4, 1, ["c"])
    assert "empty, not an image" in caplog.text
    assert "000.png: empty, not an image" in render_scores(scores).replace("<wbr>", "")
    for file in Path(data).rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(EvaluationError, match=f"{data}: there are no images to evaluate"):
        evaluate(predictor, data)
    with pytest.raises(DataError, match="no such folder"):
        evaluate(predictor, os.fspath(tmp_path / "none"))


def test_options_of_another_task_are_refused():
    with pytest.raises(TypeError, match="clips"):
        evaluate(open_predictor(RUNS / "classification"), "digits", clips=2)


def test_the_network_stays_as_it_was():
    predictor = open_predictor(RUNS / "classification")
    before = {name: value.clone() for name, value in predictor.module.state_dict().items()}
    evaluate(predictor, "digits")
    after = predictor.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not predictor.module.training
    assert all(parameter.grad is None for parameter in predictor.module.parameters())
