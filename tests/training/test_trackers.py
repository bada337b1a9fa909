"""``ctxvision train --logger``: TensorBoard and Weights & Biases, really, without a network."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from ctxvision._extras import install_command
from ctxvision.cli import main
from ctxvision.runs import RunFolder
from ctxvision.training import trainer
from ctxvision.training.settings import resumed_options

WORDS = ["train", "test_resnet", "digits", "--image-size=16", "--batch-size=256", "--device=cpu", "--lr=0.01"]
WORDS += ["--pictures=false"]
# two runs in a process that reaches nothing but itself
OFFLINE = """
import socket, sys
connect = socket.socket.connect
def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"no network in this test: {address}")
    return connect(self, address)
socket.socket.connect = guarded
from ctxvision.cli import main
code = main(sys.argv[1:]) or main(["train", "--resume=run", "--epochs=2"])
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A folder with a run of one epoch that was resumed for another."""
    folder = tmp_path_factory.mktemp("tracked")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "HF_HUB_OFFLINE": "1",
        # of the programs that it starts
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    words = [*WORDS, "--epochs=1", "--out=run", "--logger", "wandb"]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


def metrics_of(rows):
    """Last values by name and epoch, of (name → number) with an epoch each."""
    found = {}
    for row in rows:
        for name, value in row.items():
            found[name, int(row["epoch"])] = float(value)
    return found


def expected(folder):
    lines = (folder / "run" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    return {
        (trainer.tracked_name(name), number): float(value)
        for number, line in enumerate(lines[1:])
        for name, value in zip(names, line.split(","), strict=True)
        if name not in ("epoch", "step")
    }


def wandb_records(path):
    """Yield the records of a file of wandb: LevelDB's log format behind seven bytes."""
    raw, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(raw):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", raw[place + 4 : place + 7])
        record += raw[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def assert_all_there(found, wanted):
    assert {epoch for _, epoch in wanted} == {0, 1}
    assert wanted.keys() <= found.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=0.01 if key[0] == "train/seconds" else 1e-7), key


@pytest.mark.process
def test_wandb_has_everything_of_both_parts(tracked):
    from wandb.proto import wandb_internal_pb2 as protocol

    rows, ids, config = [], set(), {}
    files = sorted((tracked / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for path in files:
        for data in wandb_records(path):
            record = protocol.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                rows.append({name: json.loads(text) for name, text in items.items() if name[0] != "_"})
            if record.HasField("run"):
                ids.add(record.run.run_id)
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert_all_there(metrics_of(rows), expected(tracked))
    assert any("train/loss" in row for row in rows)
    assert ids == {json.loads((tracked / "run" / "trackers.json").read_text())["wandb"]}
    assert config["lr"] == 0.01
    assert config["batch_size"] == 256


@pytest.mark.process
def test_tensorboard_only_where_nothing_else_is_asked_for(tracked):
    assert not (tracked / "run" / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_missing_package_is_one_line(monkeypatch, capsys, name):
    monkeypatch.setattr(trainer, "_installed", lambda package: package != name)
    assert main([*WORDS, "--epochs=1", "--out=run", "--logger", "csv", name]) == 2
    assert capsys.readouterr().err == (
        f"ctxvision: error: --logger {name} needs another package: {install_command(name)}\n"
    )
    assert not Path("run").exists()


def test_default_is_tensorboard_where_it_is_installed(monkeypatch):
    (logger,) = trainer.Trackers(None, RunFolder("run"), {}).loggers
    assert isinstance(logger, TensorBoardLogger)
    assert trainer.Trackers(["csv"], RunFolder("run"), {}).loggers == []
    monkeypatch.setattr(trainer, "_installed", lambda package: False)
    assert trainer.Trackers(None, RunFolder("run"), {}).loggers == []


def test_tensorboard_has_groups_and_no_metric_of_hyperparameters():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = trainer.Trackers(["tensorboard"], RunFolder("run"), {}).loggers
    logger.log_hyperparams({"lr": 1.0})
    logger.log_metrics({"train_loss_step": 2.0, "val_top1": 0.5, "epoch": 0}, step=3)
    logger.finalize("success")
    events = EventAccumulator("run/tensorboard").Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "val/top1", "epoch"}
    assert events.Scalars("train/loss")[0].step == 3


@pytest.mark.parametrize("text", ["{", "[1]", '{"wandb": 1}'])
def test_damaged_names_of_runs_begin_new_ones(text, capsys):
    Path("run").mkdir()
    Path("run/trackers.json").write_text(text)
    trainer.Trackers(["csv"], RunFolder("run"), {})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the trackers begin new runs, and is kept as run/trackers-damaged-1.json" in said
    assert Path("run/trackers-damaged-1.json").read_text() == text


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--logger", "wandb", "tensorboard"], ["wandb", "tensorboard"]),
        (["--logger=wandb,tensorboard", "--epochs=1"], ["wandb", "tensorboard"]),
        (["--logger", "csv", "--epochs=1"], ["csv"]),
        (["--logger=[tensorboard]"], ["tensorboard"]),
        (["--set", "logger=wandb"], ["wandb"]),
        (["--logger", "null"], None),
        ([], None),
    ],
)
def test_ways_to_name_them(capsys, words, names):
    with pytest.raises(SystemExit, match="0"):
        main([*WORDS, *words, "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out)["logger"] == names


def test_unknown_tracker_is_one_line(capsys):
    assert main([*WORDS, "--logger", "wandbb"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "wandbb" in error


def test_the_tracker_of_before_is_refused_with_its_alternatives(capsys):
    assert main([*WORDS, "--logger", "trackio"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--logger trackio: runs are no longer written to trackio; take tensorboard" in error


def test_a_run_that_was_tracked_by_it_goes_on_without(capsys):
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text("model: test_resnet\nlogger: [wandb, trackio]\n")
    assert resumed_options({"resume": "run"}) == {"model": "test_resnet", "logger": ["wandb"]}
    assert "no longer written to trackio" in capsys.readouterr().err
