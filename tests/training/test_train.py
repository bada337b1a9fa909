"""`ctxvision.training.train`: what the command does, from Python, and what it leaves behind in the process."""

import csv
import dataclasses
import logging
import os
import random
import signal
import threading

import numpy as np
import pytest
import torch

from ctxvision.cli import main
from ctxvision.runs import read_run
from ctxvision.tasks import ClassificationTask, load_task
from ctxvision.training import (
    ClassificationOptions,
    DetectionOptions,
    OptionError,
    SegmentationOptions,
    TrainingError,
    TrainingStopped,
    VideoOptions,
    train,
)

SCENES = "digits-scenes#train=4,val=2,size=64"
OPTIONS = {
    "classify": ClassificationOptions(model="test_resnet", data="digits", image_size=16, batch_size=512, lr=0.01),
    "detect": DetectionOptions(
        model="resnet10t", data=SCENES, batch_size=2, detector="mask_rcnn", width=16, hidden=32, norm="batch",
        sampled_rois=16, aspect_ratios=(0.5, 1.0),
    ),
    "segment": SegmentationOptions(
        model="test_resnet", data=SCENES, batch_size=2, decoder_args={"pyramid_channels": 16, "channels": 16}
    ),
    "video": VideoOptions(model="test_resnet", data="moving-digits#train=4,val=4", batch_size=2, frames=4),
}  # fmt: skip
COMMON = {"epochs": 1, "warmup_epochs": 0, "device": "cpu", "logger": ["csv"], "pictures": False}
DIGITS = {"image_size": 16, "batch_size": 512, "lr": 0.01, **COMMON}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(folder):
    with open(f"{folder}/metrics.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def surroundings():
    """What a call must leave as it was."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    numbers = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002
    return dict(os.environ), handlers, threading.excepthook, numbers


def interrupt_at(monkeypatch, step):
    original, calls = ClassificationTask.training_step, []

    def patched(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", patched)


@pytest.mark.parametrize("task", OPTIONS)
def test_equals_the_command(task, capsys):
    options = OPTIONS[task]
    words = [f"--task={task}", *(f"--{name}={value}" for name, value in COMMON.items() if name != "logger")]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name != "task":
            words.append(f"--{field.name}={list(value) if isinstance(value, tuple) else value}")
    run = train(out="a", options=options, **COMMON)
    assert main(["train", *words, "--logger=csv", "--out=b"]) == 0
    assert rows("a") == rows("b")
    before, after = (dict(read_run(folder).settings, out=None) for folder in "ab")
    assert before == after
    assert run == read_run("a")
    assert run.path.name == "a"
    assert load_task(run.path).kind == options.task
    assert run.folder.last.is_file()


def test_twice_in_one_process_with_nothing_left_behind():
    before = surroundings()
    first = train("test_resnet", "digits", **DIGITS)
    second = train("test_resnet", "digits", **DIGITS)
    assert surroundings() == before
    assert [str(run.path) for run in (first, second)] == [f"runs/test_resnet-digits-{n}" for n in (1, 2)]
    assert rows(first.path) == rows(second.path)


def test_other_options_count_more_than_the_recipe(monkeypatch):
    seen = []
    monkeypatch.setattr("ctxvision.training.run.train_with", seen.append)
    train("cotnet101", "x", recipe="cotnet-advanced", lr=0.3, options=ClassificationOptions(ema=0.5, lr=0.2))
    (options,) = seen
    assert type(options) is ClassificationOptions
    assert (options.batch_size, options.weight_decay, options.ema, options.lr) == (448, 6e-5, 0.5, 0.3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "test_resnet", "epochs": "many"}, "--epochs: many is not a whole number"),
        ({"model": "test_resnet", "epoch": 1}, "--task classify has no option epoch"),
        ({"model": "test_resnet", "window": [1, 1]}, "--task classify has no option window"),
        ({"model": "test_resnet", "task": "guess"}, "--task guess: there is no such task"),
        ({"model": "test_resnet", "recipe": "cotnet"}, "there is no recipe 'cotnet'"),
        ({"model": "test_resnet", "lr": 0}, "--lr must be more than 0"),
        ({"model": "test_resnet", "logger": ["trackio"]}, "take tensorboard"),
        ({}, "name a model"),
    ],
)
def test_wrong_options_are_one_line(given, message):
    before = surroundings()
    with pytest.raises(OptionError, match=message) as error:
        train(**given)
    assert "\n" not in str(error.value)
    assert surroundings() == before
    assert os.listdir() == []


def test_an_error_leaves_nothing_behind(monkeypatch):
    before = surroundings()
    with pytest.raises(TrainingError, match="does not take 3 × 16 × 16 images"):
        train("contextual_convnext_micro", "digits", **DIGITS)
    assert surroundings() == before
    assert os.listdir() == []

    def failing(self, batch, batch_idx):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", failing)
        with pytest.raises(ZeroDivisionError):
            train("test_resnet", "digits", out="run", **DIGITS)
    assert surroundings() == before
    with pytest.raises(TrainingError, match="exists and is not empty"):
        train("test_resnet", "digits", out="run", **DIGITS)


def test_an_interrupt_leaves_a_checkpoint_to_resume(monkeypatch):
    whole = train("test_resnet", "digits", out="whole", **DIGITS)
    before = surroundings()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(KeyboardInterrupt, match="stopped in epoch 1; continue with") as stopped:
            train("test_resnet", "digits", out="run", **DIGITS)
    assert isinstance(stopped.value, TrainingStopped)
    assert stopped.value.signal_number == signal.SIGINT
    assert surroundings() == before
    run = train(resume="run")
    assert rows(run.path) == rows(whole.path)
    prolonged = train(resume=run.path, epochs=2, options=ClassificationOptions(val_every=1))
    assert [row["epoch"] for row in prolonged.rows] == [1, 2]


def test_what_starts_from_trained_weights_never_ends_worse(caplog):
    start = train("test_resnet", "digits", out="start", **{**DIGITS, "epochs": 3})
    log = logging.getLogger("ctxvision")
    with caplog.at_level(logging.INFO, "ctxvision"):
        log.propagate = True  # which a command may have turned off
        run = train("test_resnet", "digits", out="run", init_from="start", **{**DIGITS, "lr": 1e3})
    said = [record.getMessage() for record in caplog.records]
    value = f"{max(row['val_top1'] for row in start.rows):.2%}"
    assert f"before the first step  top-1 {value}" in said
    assert f"best top-1 {value} before the first step" in said
    was, now = (load_task(r.checkpoint).state_dict() for r in (start, run))
    assert all(torch.equal(was[name], now[name]) for name in was if name.startswith("model."))
    again = train(resume="run/checkpoints/best.ckpt")  # a run can begin again where it began
    assert [row["train_loss"] for row in again.rows] == [row["train_loss"] for row in run.rows]
    assert not read_run("run").rows[0]["val_top1"] > float(value[:-1]) / 100


def test_it_works_outside_of_the_main_thread():
    done = []
    thread = threading.Thread(target=lambda: done.append(train("test_resnet", "digits", out="run", **DIGITS)))
    thread.start()
    thread.join()
    assert done[0].checkpoint.is_file()


def test_results_go_to_the_log(caplog):
    log = logging.getLogger("ctxvision")
    with caplog.at_level(logging.INFO, "ctxvision"):
        log.propagate = True  # which a command may have turned off
        train("test_resnet", "digits", out="run", **DIGITS)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "training test_resnet on digits in run"
    assert said[-1] == "checkpoint run/checkpoints/best.ckpt"
