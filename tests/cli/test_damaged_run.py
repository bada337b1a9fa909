"""A run folder in which all is damaged but the checkpoint: trainings go on, pages show what is left."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxvision.cli import main
from ctxvision.publish import provenance
from ctxvision.runs import RunFolder, read_run
from ctxvision.tasks import ClassificationTask
from ctxvision.training.callbacks import checkpoints
from ctxvision.training.callbacks.metrics import MetricsFile
from ctxvision.training.settings import resumed_options

DIGITS = ["test_resnet", "digits", "--batch-size=256", "--device=cpu", "--pictures=false", "--lr=0.01"]


def train(*words):
    return main(["train", *map(str, words)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("trained"))
        assert train(*DIGITS, "--epochs=2", "--out=run", "--logger=csv") == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, "run"))


def rows(folder="run"):
    return [line.split(",")[0] for line in Path(folder, "metrics.csv").read_text().splitlines()[1:]]


def step():
    return torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"]


def damage(path, how):
    data = path.read_bytes()
    if how == "folder":
        path.unlink()
        (path / "inside").mkdir(parents=True)
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": data[:-3], "empty": b"", "zeros": bytes(len(data)), "noise": os.urandom(999)}[how]
        )


def begin(metrics, epoch=2):
    """What a resumed run does first."""
    metrics.on_train_start(SimpleNamespace(current_epoch=epoch, is_global_zero=True), None)
    return [row["epoch"] for row in metrics.rows]


@pytest.mark.parametrize(
    ("how", "kept"),
    [("cut", ["1"]), ("zeros", []), ("noise", []), ("empty", []), ("missing", []), ("folder", [])],
)
def test_damaged_metrics_are_kept_aside(run, how, kept, capsys):
    damage(run / "metrics.csv", how)
    assert begin(MetricsFile(RunFolder(run))) == kept
    (said,) = capsys.readouterr().err.splitlines()
    assert "the training goes on from its checkpoint" in said
    assert ("and is kept as run/metrics-damaged-1.csv" in said) is (how != "missing")
    assert (run / "metrics-damaged-1.csv").exists() is (how != "missing")
    assert not (run / "metrics.csv").exists()


def test_damage_costs_no_training(run, capsys):
    damage(run / "metrics.csv", "cut")
    for name in ("environment.json", "trackers.json", ".lock", "curves.png"):
        if (run / name).exists():
            (run / name).unlink()
        (run / name / "inside").mkdir(parents=True)
    assert train("--resume=run", "--epochs=3") == 0
    said = capsys.readouterr().err
    assert said.count("metrics.csv: 1 of 2 rows cannot be read and are left out; the training goes on") == 1
    assert "run/environment.json: is not a file; a new one begins, and is kept as" in said
    assert rows() == ["1", "3"]
    assert step() == 15
    assert len(json.loads((run / "environment.json").read_text())) == 1


@pytest.mark.parametrize("how", ["zeros", "missing", "folder", "lines", "cut"])
def test_lost_settings_come_back(run, how, capsys):
    before = yaml.safe_load((run / "config.yaml").read_text())
    if how == "lines":  # cut between two lines it is still YAML, and the rest would be defaults
        (run / "config.yaml").write_text("".join((run / "config.yaml").read_text().splitlines(True)[:3]))
    else:
        damage(run / "config.yaml", how)
    if how == "cut":
        (run / "config.yaml").write_bytes((run / "config.yaml").read_bytes()[:200])
    assert resumed_options({"resume": "run"}) == before
    assert "the settings are taken from environment.json" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text()) == before
    assert resumed_options({"resume": "run"}) == before
    assert capsys.readouterr().err == ""


def test_settings_that_are_lost_are_named_again(run, capsys):
    (run / "config.yaml").write_bytes(b"\x00")
    (run / "environment.json").write_text("{")
    assert train("--resume=run") == 1
    assert "name the settings again: MODEL DATA and options" in capsys.readouterr().err
    assert train(*DIGITS, "--resume=run", "--epochs=3") == 0
    said = capsys.readouterr().err
    assert "the settings are those of this command, and is kept as run/config-damaged-1.yaml" in said
    assert "environment.json: not JSON, or not all of it; a new one begins" in said
    assert step() == 15


def test_metrics_that_cannot_be_written_cost_no_training(tmp_path, capsys):
    metrics = MetricsFile(RunFolder(tmp_path))
    (tmp_path / "metrics.csv" / "inside").mkdir(parents=True)
    metrics.rows = [{"epoch": 1, "step": 2}]
    metrics._write(["epoch", "step"])
    metrics._write(["epoch", "step"])
    assert (
        capsys.readouterr().err.count("metrics.csv: cannot be written (is a directory); the training goes on") == 1
    )


# what pages and the card read of a stranger's run folder
CELLS = st.text(alphabet="0123456789.,-+enaif\n\r\x00\"' ", max_size=30)
METRICS = st.binary(max_size=60) | st.builds(
    lambda names, body: ",".join(["epoch", *names]).encode() + b"\n" + body.encode("utf-8", "replace"),
    st.lists(
        st.sampled_from(["step", "val_top1", "val_miou", "seconds", "val_recall_", "val_recall_1", "", "epoch"])
    ),
    CELLS | st.from_regex(r"([0-9]{1,3},[0-9.einf]{0,4},[0-9]{0,3}\n){0,4}", fullmatch=True),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.dates(), lambda x: st.lists(x), max_leaves=4
)
SETTINGS = st.binary(max_size=60) | st.dictionaries(
    st.sampled_from(["data", "recipe", "init_from", "ema", "model", "lr", "task", "logger"]), VALUES
).map(lambda found: yaml.safe_dump(found).encode())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METRICS, SETTINGS)
def test_readers_take_any_metrics_and_settings(run, metrics, config):
    (run / "metrics.csv").write_bytes(metrics)
    (run / "config.yaml").write_bytes(config)
    found = read_run(run)
    json.dumps([found.settings, found.rows], allow_nan=False)
    assert all(epoch.epoch >= 1 for epoch in found.epochs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "read_progress", lambda path: (1, 5))
        assert all(0 <= score.value <= 1 for score in provenance.read_provenance(found.checkpoint).scores)


def test_report_and_card_of_strange_files(run, capsys):
    (run / "config.yaml").write_text(
        "data: digits\nlr: .inf\nrecipe: 2024-01-01\ninit_from: [a]\nepochs: {a: 1}\nbatch_size: !!set {a}\n"
    )
    (run / "metrics.csv").write_bytes(b"epoch,step,val_top1,val_loss,seconds\n1,5,nan,inf,\n2,10,7,-1e400,2\n9,")
    assert main(["report", "run", "digits", "--out=r.html"]) == 0
    json.loads(Path("r.json").read_text(), parse_constant=pytest.fail)
    assert main(["publish", "run", "card"]) == 0
    said = capsys.readouterr().err
    assert "1 of 3 rows cannot be read" in said
    assert "unexpected" not in said


@pytest.mark.parametrize(
    "text",
    ["task: [video]\n", "model: {a: 1}\n", "data: 1\n", "x: 1\n", "epochs: a\n", "- 1\n", "{", "recipe: 3\n"],
)
def test_strange_settings_of_a_run_have_a_reason(run, text, capsys):
    (run / "environment.json").unlink()
    (run / "config.yaml").write_text(text)
    assert train("--resume=run", "--epochs=2") in (1, 2)
    said = capsys.readouterr().err
    assert "unexpected" not in said
    assert "Traceback" not in said


def signalled(monkeypatch, *numbers):
    """Send signals while the third step is computed."""
    original, calls = ClassificationTask.training_step, []

    def patched(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 3:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", patched)


@pytest.fixture
def _nothing_ignored():
    """Signals as a terminal gives them to a program: nohup and a shell's background jobs ignore some."""
    before = {
        number: signal.signal(number, usual)
        for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler))
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_nothing_ignored")
def test_a_closed_terminal_leaves_a_checkpoint(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGHUP)
    with monkeypatch.context() as context:
        signalled(context, signal.SIGHUP, signal.SIGHUP)  # of the shell and of the system
        assert train(*DIGITS, "--epochs=2", "--out=run") == 128 + signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) is before
    assert step() == 3
    said = capfd.readouterr().err
    assert said.count("stopping after this step") == 1
    assert "continue with: ctxvision train --resume run" in said


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_stays_so(tmp_path, number):
    before = signal.signal(number, signal.SIG_IGN)  # as by nohup, and of a shell's background jobs
    stop = checkpoints.GracefulStop(tmp_path)
    try:
        with stop.installed():
            stop.on_train_start(None, None)
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is signal.SIG_IGN
        assert stop.signal_number == 0
    finally:
        signal.signal(number, before)


@pytest.mark.usefixtures("_nothing_ignored")
def test_ctrl_c_ends_at_once_after_any_signal(tmp_path):
    for first, second, at_once in (
        (signal.SIGHUP, signal.SIGINT, True),
        (signal.SIGTERM, signal.SIGTERM, True),
        (signal.SIGUSR1, signal.SIGTERM, False),
        (signal.SIGTERM, signal.SIGHUP, False),
    ):
        stop = checkpoints.GracefulStop(tmp_path)
        with stop.installed():
            os.kill(os.getpid(), first)
            if at_once:
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), second)
            else:
                os.kill(os.getpid(), second)
            assert stop.signal_number == first
