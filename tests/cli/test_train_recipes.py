"""``ctxvision recipes``, and recipes, overrides and printed settings of ``ctxvision train``."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from _pictures import make_folder
from ctxvision._cli import train as command
from ctxvision.cli import main
from ctxvision.recipes import load_recipe
from ctxvision.tasks import ClassificationTask, load_task
from ctxvision.training import run
from ctxvision.training.preparation import solve
from ctxvision.training.run import _describe_batch


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(monkeypatch):
    """The settings that a command line trains with, without training."""

    def of(*words):
        seen = []
        with monkeypatch.context() as context:
            context.setattr(run, "train_with", seen.append)
            context.setattr(command, "_write_report", lambda *args: None)
            assert main(["train", *words]) == 0
        return seen[0]

    return of


@pytest.fixture
def printed(capsys):
    """What --print-config prints, as text."""

    def of(*words):
        with pytest.raises(SystemExit) as ended:
            main(["train", *words, "--print-config"])
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    return of


def test_list(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["recipe", "task", "model", "epochs", "batch", "lr", "expected", "(%)", "source"]
    wanted = [
        "cotnet-advanced",
        "classification",
        "cotnet101",
        "350",
        "448",
        "0.175",
        "top1",
        "82.8",
        "CoTNet,",
        "Table",
        "4",
    ]
    assert wanted in [line.split() for line in lines]
    assert main(["recipes", "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(lines) - 1
    (small,) = (row for row in rows if row["recipe"] == "small")
    assert (small["model"], small["expected"]) == ("any", {})
    assert {"top1": 82.8} in [row["expected"] for row in rows]
    assert main(["recipes", "--format=csv"]) == 0
    assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["batch_size"] == "4096"


def test_print_one(capsys):
    assert main(["recipes", "rednet"]) == 0
    assert capsys.readouterr().out == load_recipe("rednet").text
    assert main(["recipes", "redmet"]) == 2
    assert "no recipe 'redmet', did you mean rednet?" in capsys.readouterr().err


def test_recipe_then_file_then_words(config):
    Path("own.yaml").write_text("lr: 0.3\nepochs: 60\nrecipe: cotnet-advanced\n")
    settings = config("cotnet101", "x", "--epochs=70", "--config=own.yaml", "--set", "ema=0.5", "--set=mixup=0")
    assert (settings.batch_size, settings.weight_decay, settings.warmup_epochs) == (448, 6e-5, 5)
    assert (settings.lr, settings.epochs, settings.ema, settings.mixup, settings.cutmix) == (0.3, 70, 0.5, 0, 1)
    Path("own.yaml").write_text("model: rednet26\nrecipe: rednet\n")
    assert config("--config=own.yaml").lr == 0.8
    assert config("--config=own.yaml", "--recipe=null").lr == 2e-3


def test_bare_switches(config):
    settings = config("rednet26", "digits", "--compile", "--grad-checkpointing", "--strict", "--epochs", "3")
    assert settings.compile
    assert settings.grad_checkpointing
    assert settings.strict
    assert not config("rednet26", "digits", "--compile", "false").compile


@pytest.mark.parametrize(
    "words",
    [
        ["cotnet50", "x", "--recipe=cotnet-advanced", "--lr=0.1"],
        ["cotnet_micro", "digits", "--optimizer=sgd", "--optimizer-args={momentum: 0.8}"],
        ["contextual_convnext_small", "digits", "--recipe=contextual-convnext"],
        [
            "rednet_micro",
            "x",
            "--batch-size=8",
            "--model-args={num_blocks: 3}",
            "--schedule=poly",
            "--schedule-args={decay_rate: 0.9}",
        ],
    ],
)
def test_printed_settings_are_whole_and_come_back(words, printed, config):
    text = printed(*words)
    Path("settings.yaml").write_text(text)
    assert config("--config=settings.yaml") == config(*words)
    assert printed("--config=settings.yaml") == text
    settings = yaml.safe_load(text)
    left_open = {name for name, value in settings.items() if value is None}
    assert not left_open & {"epochs", "batch_size", "lr", "weight_decay", "warmup_epochs", "workers", "model"}


def test_printed_settings_show_recipe_and_override(printed):
    settings = yaml.safe_load(printed("se_cotnetd152", "x", "--recipe=cotnet-advanced", "--dropout=0.1"))
    assert (settings["drop_path_rate"], settings["dropout"], settings["lr"]) == (0.15, 0.1, 0.2)
    assert settings["auto_augment"] == "rand-m15-mstd0.5-n2"


def test_settings_of_a_recipe_for_another_network(printed, config):
    Path("settings.yaml").write_text(printed("cotnet50", "x", "--recipe=cotnet-default"))
    settings = config("cotnet_micro", "--config=settings.yaml", "--recipe=null")
    assert (settings.model, settings.lr, settings.epochs) == ("cotnet_micro", 0.2, 100)


def test_any_network_runs_under_a_recipe_without_what_it_does_not_take(config, capsys):
    recipe = "detect-rednet-faster-rcnn-1x"
    settings = config("resnet18", "digits-scenes", "--task=detect", f"--recipe={recipe}", "--init-from=resnet18")
    assert (settings.lr, settings.roi_samples, settings.model_args) == (0.02, 0, {})
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"recipe {recipe} is for rednet50; resnet18 is trained with the settings for rednet50, " in told
    assert (
        "without stem_kernel_size 7, which it does not take; what it expects and costs is not said of resn" in told
    )
    settings = config("rednet_micro", "x", f"--recipe={recipe}", "--task=detect", "--init-from=y")
    assert settings.model_args == {"stem_kernel_size": 7}
    assert "without" not in capsys.readouterr().err
    assert config("vgg11", "x", "--recipe=finetune", "--init-from=y").drop_path_rate == 0
    assert "recipe finetune: vgg11 is trained without drop_path_rate 0.1, which it d" in capsys.readouterr().err
    asked = config("resnet18", "x", f"--recipe={recipe}", "--init-from=y", "--model-args={output_stride: 16}")
    assert asked.model_args == {"output_stride": 16}
    assert config("rednet50", "x", f"--recipe={recipe}", "--init-from=y").model_args == {"stem_kernel_size": 7}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cotnet50", "x", "--recipe=cotnet"], "no recipe 'cotnet', did you mean "),
        (["cotnet50", "x", "--recipe=finetune"], "recipe finetune needs --init-from"),
        (["resnet18", "x", "--recipe=finetune"], "shows it, or --init-from resnet18 takes its published weights"),
        (
            ["cotnet50", "x", "--warmup-epochs=5", "--epochs=3"],
            "--warmup-epochs must be less than --epochs, got 5 and 3",
        ),
        (["--recipe=rednet"], "name a model"),
        (["cotnet50", "x", "--set", "lr"], "--set needs NAME=VALUE, got 'lr'"),
        (["cotnet50", "x", "--set", "lrr=1"], "lrr"),
        (["cotnet50", "x", "--set", "lr=fast"], "--lr: fast is not a number"),
        (["cotnet50", "x", "--schedule=sine"], "schedule"),
        (["cotnet50", "x", "--lr=0.1", "--min-lr=0.2"], "--min-lr must not be more than --lr, got 0.2 and 0.1"),
        (["cotnet50", "x", "--layer-decay=0"], "--layer-decay must be more than 0"),
        (["cotnet50", "x", "--layer-decay=1.5"], "--layer-decay must be between 0 and 1, got 1.5"),
        (["cotnet50", "x", "--skip-nan=-1"], "--skip-nan must be at least 0, got -1"),
        (["cotnet50", "x", "--devices=3", "--batch-size=128"], "--batch-size 128 is for all devices together"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("ctxvision: error: ")
    assert error.count("\n") == 1


def test_wrong_arguments_of_the_optimizer_leave_no_run_folder(capsys):
    assert main(["train", "test_resnet", "digits", "--optimizer-args={momentun: 1}"]) == 1
    assert "optimizer_args of adamw: no argument 'momentun'" in capsys.readouterr().err
    assert not os.path.exists("runs")


def test_a_rate_in_proportion_is_said_of_recipes_for_a_batch(config):
    line = _describe_batch(config("cotnet50", "x", "--recipe=cotnet-default", "--batch-size=256"), solve(256, 1))
    assert line.endswith("lr 0.2 as in the recipe cotnet-default for 512; in proportion it would be --lr 0.1")


@pytest.mark.slow
def test_batch_and_rate_are_said(capsys):
    words = ["test_resnet", "digits", "--recipe=small", "--image-size=16", "--epochs=1", "--warmup-epochs=0"]
    words += ["--device=cpu", "--micro-batch=300", "--pictures=false"]
    assert main(["train", *words, "--batch-size=512", "--out=a"]) == 0
    told = capsys.readouterr()
    assert "global batch 512 = 1 device × 256 images × 2 accumulated; " in told.out
    assert "lr 0.002 as in the recipe small\n" in told.out, "it is for no number of images"
    assert "digits have their own augmentation, in place of that of the recipe small" in told.err
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert (config["recipe"], config["lr"], config["batch_size"], config["accumulate"]) == (
        "small",
        0.002,
        512,
        None,
    )
    assert main(["train", *words, "--batch-size=512", "--lr=0.01", "--out=b"]) == 0
    assert "2 accumulated; lr 0.01 instead of 0.002 in the recipe small\n" in capsys.readouterr().out
    assert main(["train", "--resume=a", "--epochs=2"]) == 0
    assert main(["train", "--resume=a", "--epochs=3", "--recipe=rednet"]) != 0


@pytest.fixture
def small(tmp_path):
    """Words that train a contextual network on ten small pictures."""
    make_folder(tmp_path / "data", {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1})
    words = ["train", "contextual_convnext_micro", "data", "--image-size=32", "--batch-size=4", "--workers=0"]
    return [*words, "--device=cpu", "--warmup-epochs=0", "--epochs=1", "--pictures=false"]


@pytest.mark.slow
def test_init_from_starts_from_other_weights(small, capsys):
    torch.manual_seed(1)
    weights = timm.create_model("contextual_convnext_micro", num_classes=2).state_dict()
    save_file(weights, "other.safetensors")
    assert main([*small, "--init-from=other.safetensors", "--lr=1e-9", "--min-lr=0", "--out=run"]) == 0
    assert (
        f"ctxvision: other.safetensors: loaded {len(weights)} of {len(weights)} tensors\n"
        in capsys.readouterr().err
    )
    assert "WARNING other.safetensors: loaded " in Path("run/train.log").read_text()
    trained = load_task("run/checkpoints/last.ckpt").model.state_dict()
    assert trained.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)
    assert main([*small, "--init-from=nothing.safetensors"]) == 1
    assert "nothing.safetensors" in capsys.readouterr().err
    assert main(["train", "resnet10t", *small[2:], "--init-from=other.safetensors"]) == 1
    assert "other.safetensors" in capsys.readouterr().err
    assert not os.path.exists("runs")
    os.remove("other.safetensors")
    assert main(["train", "--resume=run", "--epochs=2"]) == 0  # which needs them no more
    assert main([*small, "--init-from=run", "--out=again"]) == 0
    assert f"ctxvision: run: loaded {len(weights)} of {len(weights)} tensors\n" in capsys.readouterr().err


@pytest.mark.slow
def test_grad_checkpointing_changes_no_step(small):
    assert main([*small, "--lr=0.01", "--out=a"]) == 0
    assert main([*small, "--lr=0.01", "--out=b", "--grad-checkpointing"]) == 0
    a, b = (load_task(f"{run}/checkpoints/last.ckpt").state_dict() for run in "ab")
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, msg=name)


def test_grad_checkpointing_is_refused_where_there_is_none(small, capsys):
    assert main(["train", "dla46x_c", *small[2:], "--grad-checkpointing"]) == 1
    assert "dla46x_c cannot be trained with --grad-checkpointing; leave it out" in capsys.readouterr().err


@pytest.mark.slow
def test_compile_comes_before_the_first_step(small, monkeypatch):
    order = []
    step = ClassificationTask.training_step
    monkeypatch.setattr(ClassificationTask, "compile_network", lambda task: order.append("compiled"))
    monkeypatch.setattr(
        ClassificationTask, "training_step", lambda task, *args: order.append("step") or step(task, *args)
    )
    assert main([*small, "--compile"]) == 0
    assert order == ["compiled", "step", "step"]


def test_repeated_augmentation_reaches_the_data(small, monkeypatch):
    seen = []
    step = ClassificationTask.training_step
    monkeypatch.setattr(
        ClassificationTask,
        "training_step",
        lambda task, *args: seen.append(args[0][1].tolist()) or step(task, *args),
    )
    assert main([*small, "--repeats=4", "--out=run"]) == 0
    assert [len(set(classes)) for classes in seen] == [1, 1]  # four copies of one image fill a batch
