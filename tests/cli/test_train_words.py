"""The command line of ``ctxvision train``: what it refuses, and files of settings."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ctxvision._cli.train_words import first_look
from ctxvision.cli import main

DIGITS = ["test_resnet", "digits", "--image-size=16", "--batch-size=256", "--device=cpu", "--pictures=false"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*words):
    return main(["train", *words])


def test_print_config_is_a_config(capsys):
    with pytest.raises(SystemExit) as ended:
        train("cotnet_micro", "digits", "--epochs=3", "--print-config")
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"] == "cotnet_micro"
    assert printed["epochs"] == 3
    with open("config.yaml", "w") as file:
        yaml.safe_dump(
            printed | {"model": "test_resnet", "epochs": 1, "image_size": 16, "device": "cpu", "pictures": False},
            file,
        )
    assert train("--config=config.yaml") == 0


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["cotnet5", "digits"], "unknown model 'cotnet5'; did you mean cotnet50", 1),
        (["test_resnet", "nowhere"], "nowhere: no such folder", 1),
        ([], "name a model", 2),
        (["contextual_convnext_micro", "digits", "--image-size=16"], "does not take 3 × 16 × 16 images", 1),
        (["test_resnet", "digits", "--epochs=0"], "--epochs must be at least 1, got 0", 2),
        (["test_resnet", "digits", "--epochs=x"], "--epochs: x is not a whole number", 2),
        (["test_resnet", "digits", "--lr=0"], "--lr must be more than 0", 2),
        (["test_resnet", "digits", "--val-fraction=1"], "--val-fraction must be", 2),
        (["test_resnet", "digits", "--ema=2"], "--ema must be between 0 and 1, got 2", 2),
        (["test_resnet", "digits", "--precision=8"], "--precision: there is no '8'; there are 32, ", 2),
        (["test_resnet", "digits", "--epoch=1"], "--epoch", 2),
        (["test_resnet", "digits", "more"], "too many words, from 'more' on", 2),
        (["test_resnet", "digits", "--config=none.yaml"], "none.yaml", 2),
        (["test_resnet", "digits", "--device=tpux"], "--device tpux cannot be used: there are auto, cpu, cuda", 2),
        (["test_resnet", "digits", "--device=cuda:99"], "--device cuda:99 cannot be used: PyTorch sees", 2),
        (["test_resnet", "digits", "--schedule=cosin"], "no 'cosin', did you mean cosine?; there are co", 2),
        (["test_resnet", "digits", "--in-chans=4"], "--in-chans: there is no '4'; there are 1, 3;", 2),
        (["test_resnet", "digits", "--class-weights=1"], "--class-weights is an option of --task segment;", 2),
        (["test_resnet", "digits", "--callbacks=Stop"], "Stop is no import path of a class such as light", 2),
        (["test_resnet", "digits#a=1"], "digits: no option 'a' after '#'; it has none", 1),
        (["test_resnet", "digits", "--optimizer=adamm"], "unknown optimizer 'adamm', did you mean adam", 1),
        (["test_resnet", "digits", "--auto-augment=rand-m9"], "--auto-augment is for images in files", 2),
        (["test_resnet", "digits", "--out=/dev/null/run"], "cannot be made (not a directory); --out names a", 1),
    ],
)
def test_mistakes_are_one_line(capsys, words, message, code):
    assert train(*words) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("ctxvision: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not os.path.exists("runs") or not os.listdir("runs")


def test_words_change_what_the_config_file_says_wherever_it_stands(capsys):
    def printed(*words):
        with pytest.raises(SystemExit, match="0"):
            train(*words, "--print-config")
        return capsys.readouterr().out

    Path("settings.yaml").write_text(printed("test_resnet", "digits", "--epochs=7"))
    for words in (("--config", "settings.yaml", "--epochs=3"), ("--epochs=3", "--config=settings.yaml")):
        settings = yaml.safe_load(printed(*words))
        assert (settings["model"], settings["epochs"]) == ("test_resnet", 3)
    assert yaml.safe_load(printed("resnet10t", "--config", "settings.yaml"))["model"] == "resnet10t"


def test_tasks_and_their_recipes_must_agree(capsys, monkeypatch):
    assert train(*DIGITS, "--task=guess") == 2
    assert "there is no such task; there are classify" in capsys.readouterr().err
    boxes = SimpleNamespace(name="boxes", task="detection", settings_for=lambda model: {})
    monkeypatch.setattr("ctxvision.training.settings.load_recipe", lambda name: boxes)
    assert train(*DIGITS, "--task=classify", "--recipe=boxes") == 2
    assert "recipe boxes is for --task detect, not classify" in capsys.readouterr().err


def test_what_lightning_says_of_devices_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("ctxvision.training.trainer.why_unusable", lambda name: "")
    assert train("test_resnet", "digits", "--device=cuda:99") == 1
    error = capsys.readouterr().err
    assert error.startswith("ctxvision: error: ")
    assert "unexpected" not in error


def test_another_network_leaves_out_what_it_does_not_take_of_a_configuration(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: contextual_convnext_micro\ndata: digits\nlr: 0.01\ndropout: 0.1\n"
        "model_args: {class_ratios: [1, 0.8, 0.6, 0.4], in_chans: 1}\n"
    )
    options, _ = first_look(["--model=cotnet_micro", f"--config={path}"])
    assert options == {
        "model": "cotnet_micro", "data": "digits", "lr": 0.01, "dropout": 0.1, "model_args": {"in_chans": 1},
    }  # fmt: skip
    said = capsys.readouterr().err
    assert "cotnet_micro is trained without class_ratios [1, 0.8, 0.6, 0.4], which it does not take" in said
    same, _ = first_look(["--model=contextual_convnext_micro", f"--config={path}"])
    assert set(same["model_args"]) == {"class_ratios", "in_chans"}
    assert not capsys.readouterr().err
