"""``ctxvision train``: the run folder, resuming exactly, stopping, and what it says."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from _pictures import BAD, add_bad_files, make_folder
from _processes import ABSENT
from ctxvision.cli import main
from ctxvision.runs import RunFolder
from ctxvision.tasks import ClassificationTask, TaskError, load_task
from ctxvision.training.callbacks.checkpoints import RunCheckpoints

SMALL = ["--image-size=16", "--batch-size=256", "--device=cpu", "--lr=0.01", "--pictures=false"]
DIGITS = ["test_resnet", "digits", *SMALL]
FOLDER = {"train/cat": 12, "train/dog": 12, "val/cat": 6, "val/dog": 6}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*words):
    return main(["train", *map(str, words)])


def rows(folder):
    with open(f"{folder}/metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def state(folder, name="last"):
    return torch.load(f"{folder}/checkpoints/{name}.ckpt", weights_only=True)


def assert_same_run(one, other):
    for part in ("state_dict", "current_model_state"):
        a, b = state(one).get(part, {}), state(other).get(part, {})
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert state(one)["lr_schedulers"] == state(other)["lr_schedulers"]


def interrupt_at(monkeypatch, step, method="training_step", number=signal.SIGINT):
    """Send a signal to this process while the given step is computed, once."""
    original, calls = getattr(ClassificationTask, method), []

    def patched(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            calls.append(batch_idx)
            if len(calls) == step + 1:
                os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, method, patched)


def test_run_folder(capsys):
    assert train(*DIGITS, "--epochs=2", "--out=run", "--log-every=2") == 0
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= set(os.listdir("run"))
    assert sorted(os.listdir("run/checkpoints")) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    metrics = rows("run")
    assert [row["epoch"] for row in metrics] == ["1", "2"]
    assert all(0 <= float(row["val_top1"]) <= float(row["val_top5"]) <= 1 for row in metrics)
    best = max(metrics, key=lambda row: float(row["val_top1"]))
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == f"best top-1 {float(best['val_top1']):.2%} in epoch {best['epoch']} of 2"
    assert out[-1] == "checkpoint run/checkpoints/best.ckpt"
    assert state("run", "best")["epoch"] == int(best["epoch"]) - 1
    with open("run/config.yaml") as file:
        config = yaml.safe_load(file)
    assert config["model"] == "test_resnet"
    assert config["epochs"] == 2
    assert config["out"] == "run"
    assert load_task("run/checkpoints/best.ckpt").data_spec["class_names"] == list("0123456789")
    kept = Path("run/train.log").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    ", "", line) for line in kept] == out
    assert sum(line.startswith("epoch 1/2  train loss") for line in out) == 1
    steps = [line.split("  ")[1] for line in out if "  step " in line]
    assert steps == [f"step {step}/{metrics[-1]['step']}" for step in range(2, int(metrics[-1]["step"]) + 1, 2)]


def test_quiet_says_the_result_alone_and_the_file_all(capsys):
    assert train(*DIGITS, "--epochs=1", "--out=run", "--quiet") == 0
    out = capsys.readouterr().out
    assert "epoch 1/1" not in out
    assert "best top-1" in out
    assert "  train loss " in Path("run/train.log").read_text()


def test_the_file_ends_with_the_error(monkeypatch):
    def fail(self, batch, batch_idx):
        raise TaskError("no luck")

    monkeypatch.setattr(ClassificationTask, "training_step", fail)
    assert train(*DIGITS, "--epochs=1", "--out=run") == 1
    assert Path("run/train.log").read_text().splitlines()[-1].endswith("ERROR   ended: no luck")


@pytest.mark.slow
def test_training_learns(capsys):
    train(*DIGITS, "--batch-size=64", "--epochs=4", "--out=run")
    assert float(rows("run")[-1]["val_top1"]) > 0.85
    assert float(rows("run")[-1]["train_loss"]) < float(rows("run")[0]["train_loss"])


def test_runs_are_numbered_and_never_overwritten(capsys):
    for _ in range(2):
        assert train(*DIGITS, "--epochs=1") == 0
    assert sorted(os.listdir("runs")) == ["test_resnet-digits-1", "test_resnet-digits-2"]
    assert train(*DIGITS, "--epochs=1", "--out=runs/test_resnet-digits-1") == 1
    assert "exists and is not empty; choose another --out, or continue with --resume" in capsys.readouterr().err


def test_same_seed_same_weights_and_config_file_repeats_a_run(capsys):
    train(*DIGITS, "--epochs=1", "--out=a")
    train("--config", "a/config.yaml", "--out=b")
    train("--config", "a/config.yaml", "--out=c", "--seed=1")
    assert_same_run("a", "b")
    assert rows("a") == rows("b")
    assert rows("a") != rows("c")


EVERYTHING = [
    *DIGITS,
    "--epochs=3",
    "--mixup=0.5",
    "--cutmix=1",
    "--drop-path-rate=0.2",
    "--ema=0.9",
    "--clip-grad=1",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of `EVERYTHING` that nobody interrupts."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    assert train(*EVERYTHING, f"--out={folder}") == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [2, 6, 9]
)  # of 5 in an epoch: in the first, in the second, the last of the second
def test_interrupted_run_resumes_exactly(undisturbed, monkeypatch, capsys, step):
    with monkeypatch.context() as context:
        interrupt_at(context, step)
        assert train(*EVERYTHING, "--out=parts") == 130
    error = capsys.readouterr().err
    assert "continue with: ctxvision train --resume parts" in error
    assert state("parts")["global_step"] == step + 1
    assert train("--resume=parts") == 0
    assert_same_run(undisturbed, "parts")
    assert rows(undisturbed) == rows("parts")


@pytest.mark.slow
@pytest.mark.process
def test_interrupted_folder_run_resumes_exactly_with_any_workers(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path / "data", FOLDER)
    words = ["test_resnet", "data", "--image-size=16", "--batch-size=4", "--epochs=2", "--device=cpu"]
    words += ["--auto-augment=rand-m9-mstd0.5", "--random-erasing=0.3", "--accumulate=2", "--pictures=false"]
    assert train(*words, "--out=whole", "--workers=0") == 0
    with monkeypatch.context() as context:
        interrupt_at(context, 2)  # the first of two batches of an optimiser step
        assert train(*words, "--out=parts", "--workers=2") == 130
    assert state("parts")["global_step"] == 2
    assert train("--resume", "parts") == 0
    assert_same_run("whole", "parts")


@pytest.mark.slow
def test_interrupt_in_validation_finishes_the_epoch(monkeypatch, capsys):
    train(*DIGITS, "--epochs=2", "--out=whole")
    with monkeypatch.context() as context:
        interrupt_at(context, 0, "validation_step")
        assert train(*DIGITS, "--epochs=2", "--out=parts") == 130
    assert [row["epoch"] for row in rows("parts")] == ["1"]
    assert train("--out=parts", "--resume") == 0
    assert_same_run("whole", "parts")
    assert rows("whole") == rows("parts")


def test_terminate_is_like_interrupt_and_handlers_are_restored(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as context:
        interrupt_at(context, 1, number=signal.SIGTERM)
        assert train(*DIGITS, "--epochs=2", "--out=run") == 128 + signal.SIGTERM
    assert state("run")["global_step"] == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_finished_run_can_be_prolonged_and_moved(capsys):
    train(*DIGITS, "--epochs=1", "--out=first")
    os.rename("first", "second")
    best = state("second", "best")["callbacks"]["RunCheckpoints"]["best_value"]
    assert train("--resume=second", "--epochs=2") == 0
    assert [row["epoch"] for row in rows("second")] == ["1", "2"]
    assert state("second")["callbacks"]["RunCheckpoints"]["best_value"] >= best
    assert not os.path.exists("first")
    with open("second/config.yaml") as file:
        assert yaml.safe_load(file)["out"] == "second"


def test_schedule_of_a_prolonged_run_is_that_of_all_its_epochs(capsys):
    train(*DIGITS, "--epochs=1", "--warmup-epochs=0", "--out=run")
    assert float(rows("run")[0]["lr"]) == 0
    train("--resume=run", "--epochs=4")
    assert [float(row["lr"]) for row in rows("run")] == pytest.approx(
        [0, 0.005, 0.01 * 0.5 * (1 - 0.5**0.5), 0], abs=1e-7
    )


def test_resume_refuses_another_run(capsys):
    train(*DIGITS, "--epochs=1", "--out=run")
    assert train("resnet10t", "digits", "--resume=run", "--epochs=2") == 1
    assert "its model is test_resnet, not resnet10t" in capsys.readouterr().err
    before = Path("run/config.yaml").read_bytes()
    for option, told in [
        ("--image-size=24", "its image_size is 16, not 24"),
        ("--lr=0.1", "not 0.1"),
        ("--optimizer=sgd", "its optimizer is adamw, not sgd"),
        ("--batch-size=8", "not 8"),
        ("--ema=0.9", "its ema is 0.0, not 0.9"),
        ("--devices=2", "its devices is 1, not 2"),
    ]:
        assert train("--resume=run", "--epochs=2", option) == 1
        assert told in capsys.readouterr().err
    assert Path("run/config.yaml").read_bytes() == before
    assert train("--resume=run", "--epochs=2", "--out=elsewhere") == 2
    assert "leave one of them out" in capsys.readouterr().err
    assert train("--resume=nowhere") == 1
    assert "no run to resume there" in capsys.readouterr().err
    os.remove("run/checkpoints/last.ckpt")
    assert train("--resume=run", "--epochs=2") == 1
    assert "no checkpoint to resume from" in capsys.readouterr().err
    assert train("--resume") == 2
    assert "--resume needs a run folder" in capsys.readouterr().err


def test_bad_images_are_named_and_counted(tmp_path, capsys):
    make_folder(tmp_path / "data", FOLDER)
    bad = add_bad_files(tmp_path / "data" / "train" / "cat") + add_bad_files(tmp_path / "data" / "val" / "dog")
    words = [
        "test_resnet",
        tmp_path / "data",
        "--image-size=16",
        "--batch-size=8",
        "--device=cpu",
        "--workers=0",
    ]
    assert train(*words, "--epochs=3", "--out=run") == 0
    error = capsys.readouterr().err
    named = [path for path in bad if error.count(f"skipped {path}: ") == 1]
    assert len(named) >= 2 * len(BAD) - 1  # one may have hidden in the rest of every epoch
    assert f"skipped {len(named)} bad images, named above" in error
    assert "Traceback" not in error
    assert train(*words, "--epochs=3", "--out=strict", "--strict") == 1
    error = capsys.readouterr().err
    assert any(f"ctxvision: error: {path}: " in error for path in bad)


def test_best_is_the_first_of_the_most_accurate(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoints = RunCheckpoints(RunFolder(tmp_path), "val_top1")
    for epoch, top1 in enumerate([0.5, 0.75, 0.25, 0.75]):
        trainer = SimpleNamespace(
            callback_metrics={"val_top1": torch.tensor(top1)},
            current_epoch=epoch,
            is_global_zero=True,
            sanity_checking=False,
            save_checkpoint=lambda path, epoch=epoch: path.write_text(str(epoch)),
        )
        checkpoints.on_validation_end(trainer, None)
        checkpoints.on_train_epoch_end(trainer, None)
    # metrics that are left from another epoch do not count
    trainer.callback_metrics["val_top1"] = torch.tensor(1.0)
    trainer.save_checkpoint = lambda path: path.write_text("4")
    checkpoints.on_train_epoch_end(trainer, None)
    assert (tmp_path / "checkpoints/last.ckpt").read_text() == "4"
    assert (tmp_path / "checkpoints/best.ckpt").read_text() == "1"
    assert (checkpoints.best_value, checkpoints.best_epoch) == (0.75, 2)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["best.ckpt", "last.ckpt"]


def test_failed_run_keeps_the_last_checkpoint(monkeypatch, capsys):
    original = ClassificationTask.training_step

    def diverging(self, batch, batch_idx):
        return original(self, batch, batch_idx) * (float("nan") if self.current_epoch else 1)

    monkeypatch.setattr(ClassificationTask, "training_step", diverging)
    assert train(*DIGITS, "--epochs=3", "--out=run") == 1
    error = capsys.readouterr().err
    assert "the training loss is not finite in epoch 2, step 6, batch 1 of 5; lower the learning rate" in error
    assert "the last good checkpoint is run/checkpoints/last.ckpt" in error
    assert state("run")["epoch"] == 0
    assert all(v.isfinite().all() for v in state("run")["state_dict"].values())


@pytest.mark.process
def test_ctrl_c_in_a_real_process(tmp_path):
    words = [sys.executable, "-m", "ctxvision", "train", *DIGITS, "--epochs=200", "--out=run"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "continue with: ctxvision train --resume run" in error
    step = state("run")["global_step"]
    assert step >= 5
    assert train("--resume=run", f"--epochs={step // 5 + 1}") == 0
    assert state("run")["global_step"] == (step // 5 + 1) * 5


@pytest.mark.process
def test_two_processes_of_which_one_has_no_readable_validation_image(tmp_path):
    make_folder(tmp_path / "data", {"train/x": 10, "train/y": 10, "val/x": 1})
    broken = tmp_path / "data" / "val" / "y" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    words = [sys.executable, "-m", "ctxvision", "train", "test_resnet", "data", "--image-size=16", "--workers=0"]
    words += ["--batch-size=4", "--devices=2", "--device=cpu", "--epochs=2", "--out=run", "--pictures=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ABSENT}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout
    assert "skipped 1 bad image" in done.stderr


@pytest.mark.slow
def test_steps_instead_of_epochs_and_validation_now_and_then(capsys):
    # 1437 digits make 5 steps of 256
    assert train(*DIGITS, "--steps=23", "--val-every=3", "--out=run") == 0
    assert "23 steps, rounded up to 5 epochs" in capsys.readouterr().out
    found = rows("run")
    assert [row["step"] for row in found] == ["5", "10", "15", "20", "25"]
    assert [bool(row["val_top1"]) for row in found] == [False, False, True, False, True]
    best = max(float(row["val_top1"]) for row in found if row["val_top1"])
    assert state("run")["callbacks"]["RunCheckpoints"]["best_value"] == pytest.approx(best, abs=1e-5)
    assert train("--resume=run", "--steps=26") == 0
    assert len(rows("run")) == 6
    assert train(*DIGITS, "--steps=23", "--epochs=3") == 2
    assert "--steps or --epochs" in capsys.readouterr().err


def test_run_folder_of_the_version_before_tasks(capsys):
    assert train(*DIGITS, "--epochs=2", "--out=run") == 0
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    for name in ("task", "steps", "val_every", "warmup_steps"):
        settings.pop(name)
    Path("run/config.yaml").write_text(yaml.safe_dump(settings))
    checkpoint = state("run")
    saved = checkpoint["callbacks"]["RunCheckpoints"]
    saved["best_top1"] = saved.pop("best_value")
    checkpoint["hyper_parameters"].pop("warmup_steps")
    torch.save(checkpoint, "run/checkpoints/last.ckpt")
    assert train("--resume=run", "--epochs=3") == 0
    assert len(rows("run")) == 3
