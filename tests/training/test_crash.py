"""``ctxvision train`` when the plug is pulled: full disks, damaged checkpoints, vanished folders, kills."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from _processes import ABSENT
from ctxvision import files as ctxvision_files
from ctxvision.cli import main
from ctxvision.tasks import ClassificationTask, checkpoint_file

pytestmark = pytest.mark.slow

SMALL = ["--image-size=16", "--batch-size=256", "--device=cpu", "--lr=0.01", "--pictures=false"]
DIGITS = ["test_resnet", "digits", *SMALL]
TOOL = Path(__file__).parents[2] / "tools" / "kill_and_resume.py"


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A run of two epochs, to be copied; names in it are relative."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *DIGITS, "--epochs=2", "--out=run"]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(two_epochs):
    return Path(shutil.copytree(two_epochs, "run"))


def train(*words):
    return main(["train", *map(str, words)])


def epochs(folder, name="metrics.csv"):
    with open(f"{folder}/{name}", newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def step(path):
    return torch.load(path, weights_only=True)["global_step"]


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder, "checkpoints").iterdir()}


def one_error(capsys):
    """The last line on stderr, which is the only one of an error, and without a traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    lines = text.splitlines()
    assert [line.startswith("ctxvision: error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines[-1]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, cut, empty])
def test_damaged_newest_falls_back_to_the_previous(run, capsys, harm):
    harm(run / "checkpoints" / "last.ckpt")
    good = (run / "checkpoints" / "previous.ckpt").read_bytes()
    assert train("--resume=run", "--epochs=2") == 0
    error = capsys.readouterr().err
    assert "run/checkpoints/last.ckpt: " in error
    assert error.count("; continuing from run/checkpoints/previous.ckpt, the one before\n") == 1
    assert epochs("run") == ["1", "2"]
    # the damaged one has not pushed the good one out
    assert (run / "checkpoints" / "previous.ckpt").read_bytes() == good
    assert step("run/checkpoints/last.ckpt") == 10


def test_both_damaged(run, capsys):
    flip(run / "checkpoints" / "last.ckpt")
    cut(run / "checkpoints" / "previous.ckpt")
    before = files(run)
    assert train("--resume=run", "--epochs=3") == 1
    error = one_error(capsys)
    assert "last.ckpt: damaged: it is not what was written" in error
    assert "previous.ckpt: damaged: its last bytes are missing" in error
    assert error.endswith("maybe go back to the best: --resume run/checkpoints/best.ckpt")
    assert files(run) == before
    assert train("--resume=run/checkpoints/last.ckpt") == 1
    assert "--resume run looks for the newest good one" in one_error(capsys)


def test_damaged_checkpoint_is_refused_by_evaluate_and_predict(run, capsys):
    flip(run / "checkpoints" / "best.ckpt")
    for words in (
        ["evaluate", "run/checkpoints/best.ckpt", "digits"],
        ["predict", "run/checkpoints/best.ckpt", "x"],
    ):
        assert main(words) == 1
        assert "best.ckpt: damaged" in one_error(capsys)


def test_full_disk_in_reality(run, capsys):
    """A limit on the size of files stands in for the disk; python turns it into an error of the write."""
    resource = pytest.importorskip("resource")
    before = files(run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.ckpt"]) // 2, limits[1]))
    try:
        assert train("--resume=run", "--epochs=3") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = one_error(capsys)
    assert "cannot be written (file too large); run/checkpoints/last.ckpt is as it was" in error
    assert error.endswith("continue with: ctxvision train --resume run")
    assert files(run) == before
    assert train("--resume=run", "--epochs=3") == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_failing_disk(run, monkeypatch, capsys, number):
    before = files(run)

    def failing(path):
        if path.suffix == ".ckpt":
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ctxvision_files, "_sync", failing)
    assert train("--resume=run", "--epochs=3") == 1
    assert f"cannot be written ({os.strerror(number).lower()}); run/checkpoints/last.ckpt is" in one_error(capsys)
    assert files(run) == before


def test_disk_that_does_not_keep_what_is_written(run, monkeypatch, capsys):
    before = files(run)
    monkeypatch.setattr(checkpoint_file, "checksum_fits", lambda path: ".part" not in path.name)
    assert train("--resume=run", "--epochs=3") == 1
    assert "cannot be written (does not read back as it was written); run/checkpoints" in one_error(capsys)
    assert files(run) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(run, capsys):
    before = files(run)
    (run / "checkpoints").chmod(0o555)
    try:
        assert train("--resume=run", "--epochs=3") == 1
    finally:
        (run / "checkpoints").chmod(0o755)
    assert "cannot be written (permission denied)" in one_error(capsys)
    assert files(run) == before


@pytest.mark.parametrize("name", ["run", "run/checkpoints"])
def test_vanished_folder(monkeypatch, capsys, name):
    original = ClassificationTask.training_step

    def removing(self, batch, batch_idx):
        if self.current_epoch == 1:
            shutil.rmtree(name, ignore_errors=True)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", removing)
    if name == "run":
        assert train(*DIGITS, "--epochs=3", "--out=run") == 1
        assert one_error(capsys) == "ctxvision: error: run: the run folder is gone, nothing can be saved there"
        assert not Path("run/checkpoints").exists()
    else:
        assert train(*DIGITS, "--epochs=2", "--out=run") == 0
        assert Path("run/checkpoints/last.ckpt").is_file()


def test_killed_before_the_first_checkpoint_begins_again(run, capsys):
    shutil.rmtree(run / "checkpoints")
    Path("run/metrics.csv").write_text("".join(Path("run/metrics.csv").read_text().splitlines(True)[:2]))
    Path("run/.metrics.csv.1.part").write_text("half")
    assert train("--resume=run") == 0
    assert "run: stopped before its first checkpoint; beginning again" in capsys.readouterr().err
    assert epochs("run") == ["1", "2"]
    assert not Path("run/.metrics.csv.1.part").exists()


def test_going_back_keeps_what_came_after(run, capsys):
    before = files(run)
    (run / "checkpoints" / "best.ckpt").write_bytes(before["previous.ckpt"])
    assert train("--resume=run/checkpoints/best.ckpt", "--epochs=3") == 0
    told = "going back to run/checkpoints/best.ckpt; what came after it stays in run/checkpoints/last-1.ckpt and "
    assert f"{told}run/metrics-1.csv\n" in capsys.readouterr().err
    assert epochs("run", "metrics-1.csv") == ["1", "2"]
    assert epochs("run") == ["1", "2", "3"]
    assert files(run)["last-1.ckpt"] == before["last.ckpt"]


def test_checkpoints_within_an_epoch(monkeypatch, capsys):
    original, seen = ClassificationTask.training_step, []

    def looking(self, batch, batch_idx):
        path = Path("run/checkpoints/last.ckpt")
        seen.append(step(path) if path.is_file() else None)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", looking)
    assert train(*DIGITS, "--epochs=1", "--out=run", "--save-minutes=1e-6") == 0
    assert seen == [None, 1, 2, 3, 4]
    seen.clear()
    assert train(*DIGITS, "--epochs=1", "--out=other", "--save-minutes=0") == 0
    assert train("--resume=run", "--save-minutes=-1") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_in_validation_finishes_the_epoch(monkeypatch, capsys, number):
    original, sent = ClassificationTask.validation_step, []

    def patched(self, batch, batch_idx):
        if not self.trainer.sanity_checking and not sent:
            sent.append(os.kill(os.getpid(), number))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "validation_step", patched)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    assert train(*DIGITS, "--epochs=2", "--out=run", "--batch-size=128") == 128 + number
    assert epochs("run") == ["1"]
    assert step("run/checkpoints/last.ckpt") == 11
    assert not list(Path().rglob("hpc_ckpt*"))


@pytest.mark.process
def test_killed_run_ends_like_the_undisturbed_run(tmp_path):
    words = [sys.executable, str(TOOL), "--kills=1", "--epochs=2", "--batch-size=128", f"--folder={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": ABSENT}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended: equal bit for bit" in done.stdout
