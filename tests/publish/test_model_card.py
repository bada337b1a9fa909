"""The model card says what was measured, from where, and nothing else."""

import json
import math
import re
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from _publishing import SPEC, card_of, run, save, task_of

from ctxvision import cli
from ctxvision.publish import (
    PublishError,
    Score,
    publish,
    read_provenance,
    read_scores,
)
from ctxvision.publish.card import bibtex, family_of
from ctxvision.tasks import load_task

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_folder(tmp_path):
    """A run as `ctxvision train` leaves it: checkpoint, settings, metrics."""
    folder = tmp_path / "run"
    save(task_of(), folder / "checkpoints" / "best.ckpt")
    settings = {
        "model": "rednet_micro", "data": "/home/somebody/secret/flowers", "out": "/home/somebody/runs/1",
        "epochs": 5, "lr": 0.002, "ema": 0.999, "recipe": "/home/somebody/mine.yaml",
        "init_from": "resnet50.a1_in1k", "model_args": None, "workers": 3, "logger": ["wandb"],
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = "1,22,1,0.5,0.6\n2,44,1,,\n3,66,1,0.75,0.875\n4,88,1,0.9,1\n"
    (folder / "metrics.csv").write_text("epoch,step,val_loss,val_top1,val_top5\n" + rows)
    return folder


def test_card_of_a_run_is_complete_and_tells_no_secrets(run_folder, tmp_path, capsys):
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    code, out, err = run(capsys, checkpoint, tmp_path / "flowers-net", "--license", "cc-by-4.0")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("top-1 accuracy 75.00%")
    folder = tmp_path / "flowers-net"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "training.yaml",
    ]  # fmt: skip
    card = card_of(folder)
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "timm")
    assert {"ctxvision", "timm", "rednet"} <= set(card.data.tags)
    assert [(r.metric_type, r.metric_value, r.dataset_name) for r in card.data.eval_results] == [
        ("accuracy", 0.75, "flowers"), ("top_5_accuracy", 0.875, "flowers"),
    ]  # fmt: skip
    assert "moving average with decay 0.999" in card.text
    assert "after epoch 3" in card.text
    assert "`mine.yaml`" in card.text
    assert "resnet50.a1_in1k" in card.text
    assert bibtex("rednet_micro") in card.text
    assert "import ctxvision\nfrom transformers import pipeline\n" in card.text
    assert 'pipeline("image-classification", model="PATH_OF_THIS_FOLDER")' in card.text
    assert yaml.safe_load((folder / "training.yaml").read_text()) == {
        "model": "rednet_micro", "epochs": 5, "lr": 0.002, "ema": 0.999,
    }  # fmt: skip
    for name in ("README.md", "config.json", "training.yaml"):
        text = (folder / name).read_text()
        assert "somebody" not in text
        assert "secret" not in text


def test_front_matter_survives_the_hub_s_round_trip(tmp_path):
    scores = [Score("top-1 accuracy", 0.5, "validation", "ctxvision evaluate", 10, (0.2, 0.8), "a: 'b' #c")]
    publish(task_of(), tmp_path / "net", scores=scores, name="on: [off]", license="mit")
    data = card_of(tmp_path / "net").data
    again = huggingface_hub.ModelCardData(**{**data.to_dict(), "ignore_metadata_errors": False})
    assert data.model_name == "on: [off]"
    assert data.eval_results[0].dataset_name == "a: 'b' #c"
    assert re.fullmatch(r"[\w.-]+", data.eval_results[0].dataset_type)
    assert again.to_dict() == data.to_dict()


def test_names_of_classes_do_not_break_the_card(tmp_path):
    publish(task_of(), tmp_path / "net")
    text = (tmp_path / "net" / "README.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| classes")]
    assert line.count("|") == 3
    assert "<c>" not in text
    assert json.loads((tmp_path / "net" / "config.json").read_text())["label_names"] == SPEC["class_names"]


def test_nothing_is_invented_for_a_checkpoint_alone(tmp_path, capsys):
    checkpoint = save(task_of(), tmp_path / "elsewhere" / "some.ckpt")
    code, _, err = run(capsys, checkpoint, tmp_path / "net")
    assert code == 0
    assert "states no licence" in err
    assert "no accuracy" in err
    card = card_of(tmp_path / "net")
    assert card.data.eval_results is None
    assert card.data.license is None
    assert "No accuracy was recorded" in card.text
    assert "not stated a licence" in card.text
    assert "%" not in re.sub(r"\d+(\.\d+)?% of the shorter side", "", card.text)
    assert "license" not in json.loads((tmp_path / "net" / "config.json").read_text())["pretrained_cfg"]
    assert not (tmp_path / "net" / "training.yaml").exists()


@pytest.mark.parametrize(("epoch", "step"), [(2, 60), (5, 110), (1, 44)])
def test_metrics_of_other_weights_are_left_out(epoch, step, run_folder):
    checkpoint = save(task_of(), run_folder / "checkpoints" / "last.ckpt", epoch=epoch, step=step)
    assert read_provenance(checkpoint).scores == ()


@pytest.mark.parametrize(("classes", "metrics"), [(5, ["accuracy"]), (6, ["accuracy", "top_5_accuracy"])])
def test_five_of_five_classes_are_no_figure(classes, metrics, run_folder, tmp_path):
    provenance = read_provenance(run_folder / "checkpoints" / "best.ckpt")
    spec = {**SPEC, "class_names": [f"class {n}" for n in range(classes)]}
    publish(task_of(spec=spec), tmp_path / "net", provenance=provenance)
    assert [result.metric_type for result in card_of(tmp_path / "net").data.eval_results] == metrics


def test_data_set_from_the_hub_is_linked(run_folder, tmp_path):
    (run_folder / "config.yaml").write_text("model: rednet_micro\ndata: hf:user/flowers:small?label=kind\n")
    provenance = read_provenance(run_folder / "checkpoints" / "best.ckpt")
    publish(task_of(), tmp_path / "net", provenance=provenance)
    data = card_of(tmp_path / "net").data
    assert data.datasets == ["user/flowers"]
    assert data.eval_results[0].dataset_type == "user/flowers"


@pytest.fixture
def evaluation(tmp_path):
    """A checkpoint for the digits, and what `ctxvision evaluate` says about it."""
    from ctxvision.data import DigitsData

    checkpoint = save(task_of(spec=DigitsData().spec.to_dict()), tmp_path / "digits.ckpt")
    path = tmp_path / "eval.json"
    assert cli.main(["evaluate", str(checkpoint), "digits", "--json", str(path), "--device", "cpu"]) == 0
    return checkpoint, path


def test_figures_of_evaluate_go_into_the_card(evaluation, tmp_path, capsys):
    checkpoint, path = evaluation
    numbers = json.loads(path.read_text())
    code, _, _ = run(capsys, checkpoint, tmp_path / "net", "--metrics", path)
    assert code == 0
    results = card_of(tmp_path / "net").data.eval_results
    assert [(r.metric_value, r.dataset_split) for r in results] == [
        (round(numbers["top1"], 6), "validation"), (round(numbers["top5"], 6), "validation"),
    ]  # fmt: skip
    text = (tmp_path / "net" / "README.md").read_text()
    low, high = numbers["top1_interval95"]
    assert f"{low:.2%} to {high:.2%}" in text
    assert f"| {numbers['images']:,} |" in text


def test_figures_of_something_else_are_refused(evaluation, tmp_path):
    checkpoint, path = evaluation
    task, numbers = load_task(checkpoint), json.loads(path.read_text())
    other = save(task, tmp_path / "other.ckpt")
    with pytest.raises(PublishError, match=r"is about .*digits\.ckpt, not about .*other\.ckpt"):
        read_scores(path, task, str(other))
    for change in ({"parameters": 1}, {"model": "cotnet_micro"}, {"classes": []}):
        path.write_text(json.dumps(numbers | change))
        with pytest.raises(PublishError, match="is about"):
            read_scores(path, task, str(checkpoint))
    for text in ("{", "[]", "{}", json.dumps(numbers | {"top1": 75}), json.dumps(numbers | {"top1": math.nan})):
        path.write_text(text)
        with pytest.raises(PublishError, match="not a JSON file of `ctxvision evaluate`"):
            read_scores(path, task, str(checkpoint))
    with pytest.raises(PublishError, match=r"gone\.json: cannot be read"):
        read_scores(tmp_path / "gone.json", task, str(checkpoint))


def test_citations_are_those_of_the_citation_file():
    papers = {paper["title"]: paper for paper in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]}
    for name in ("cotnet50", "rednet50", "contextual_resnet50"):
        entry = " ".join(bibtex(name).split())
        paper = papers.pop(re.search(r" title = \{(.*?)\},", entry)[1])
        authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
        assert f"author = {{{authors}}}" in entry
        assert f"year = {{{paper['year']}}}" in entry
    assert not papers
    assert (family_of("resnet50"), bibtex("resnet50")) == (None, None)
