"""`ctxvision train` with processes of its own: signals, the lock of the run folder, SLURM's variables."""

import os
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from _pictures import make_folder
from _processes import DIGITS, WORDS, all_gone, assert_same_weights, descendants, finish, start, wait_for, weights
from ctxvision.cli import main
from ctxvision.runs import RunFolder
from ctxvision.tasks import ClassificationTask
from ctxvision.training import OptionError, processes, run_folder

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("SLURM", "TORCHELASTIC")):
            monkeypatch.delenv(name)


@pytest.mark.process
@linux
def test_signals_to_some_of_two_processes(whole):
    """One run is stopped twice, and ends like the one that nobody disturbed.

    The signal that the first process alone gets is that of the test of SLURM.
    """
    words = [*WORDS, "--devices=2", "--out=run"]
    for epoch, (number, to) in enumerate(((signal.SIGINT, "all"), (signal.SIGTERM, "child")), 1):
        process = start(*words)
        wait_for(process, f"epoch {epoch}/4")
        child = next(
            pid for pid in descendants(process.pid) if b"\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        everyone = [process.pid, *descendants(process.pid)]
        if to == "all":
            os.killpg(process.pid, number)
        else:
            os.kill(child, number)
        said = finish(process)
        assert process.returncode == 128 + number, said
        assert "continue with: ctxvision train --resume run" in said
        assert "Traceback" not in said
        assert all_gone(everyone)
        assert weights("run")["global_step"] < weights(whole)["global_step"]
        words = ["--resume=run"]
    said = finish(process := start(*words))
    assert process.returncode == 0, said
    assert_same_weights(whole, "run")


@pytest.mark.process
def test_one_run_at_a_time_in_a_folder(capsys):
    process = start(*DIGITS, "--epochs=500", "--out=run")
    wait_for(process, "epoch 2/500")  # by then it has a checkpoint
    before = Path("run/config.yaml").read_bytes()
    assert main(["train", "--resume=run", "--epochs=500"]) == 1
    error = capsys.readouterr().err
    assert f"run: process {process.pid} on " in error
    assert "is training there; wait for its end, or choose another --out" in error
    assert Path("run/config.yaml").read_bytes() == before
    process.kill()  # without a chance to clear up
    finish(process)
    epochs = weights("run")["epoch"] + 2
    assert main(["train", "--resume=run", f"--epochs={epochs}"]) == 0


@linux
@pytest.mark.process
@pytest.mark.parametrize("there", ["rows", "rows and half a checkpoint", "one row"])
def test_what_another_process_has_not_written_yet_is_not_missing(there, capsys):
    run = RunFolder("run")
    run.checkpoints.mkdir(parents=True)
    run.settings_file.write_text("model: test_resnet\ndata: digits\n")
    run.metrics_file.write_text("epoch,step\n0,1\n" + "1,2\n" * (there != "one row"))
    if "half" in there:
        run.last.write_bytes(b"half of it")
    holds = f"import fcntl, sys; file = open({str(run.lock_file)!r}, 'a+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    holds += "print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", holds]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert main(["train", "--resume=run"]) == 1
        said = capsys.readouterr().err
        assert "run: a process is training there; wait for its end" in said
        assert "beginning again" not in said
        holder.communicate("")
    if there == "one row":
        return  # would be trained
    assert main(["train", "--resume=run"]) == 1
    error = capsys.readouterr().err
    assert ("there is no other to continue from" if "half" in there else "no checkpoint to resume from") in error


def test_without_locks_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "fcntl", None)
    with run_folder.locked(RunFolder(tmp_path), "x"):
        assert RunFolder(tmp_path).read_lock()["run"] == "x"
    with run_folder.locked(RunFolder(tmp_path / "absent")):
        assert not (tmp_path / "absent").exists()
    (tmp_path / ".lock").write_text("[half")
    assert RunFolder(tmp_path).read_lock() == {}


def set_slurm(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def set_torchrun(monkeypatch, size, nodes=1, restarts=0):
    """Set the variables that torchrun sets for its processes."""
    sizes = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size // nodes, "GROUP_WORLD_SIZE": nodes}
    for name, value in (sizes | {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": restarts}).items():
        monkeypatch.setenv(name, str(value))


def test_numbers_of_processes(monkeypatch):
    assert processes.counts(None, None) == (1, 1)
    assert processes.counts(4, 2) == (4, 2)
    set_slurm(monkeypatch, NTASKS="8", NNODES="2", JOB_ID="17", NTASKS_PER_NODE="4")
    assert processes.counts(None, None) == processes.counts(4, None) == processes.counts(4, 2) == (4, 2)
    assert processes.launched().repeats is False
    set_slurm(monkeypatch, RESTART_COUNT="1")
    assert processes.launched() == ("SLURM", 4, 2, "SLURM 17", 1, True)
    with pytest.raises(
        OptionError, match="--nodes 4, but SLURM has started 2 nodes × 4 devices; let it start as many"
    ):
        processes.counts(None, 4)
    set_slurm(monkeypatch, NTASKS="7")
    with pytest.raises(OptionError, match="SLURM has started 7 processes on 2 nodes"):
        processes.launched()
    set_slurm(monkeypatch, JOB_NAME="interactive")
    assert processes.launched() is None
    set_torchrun(monkeypatch, 6, nodes=2)
    nameless = processes.launched()
    assert (nameless.by, nameless.devices, nameless.nodes) == ("torchrun", 3, 2)
    assert str(os.getppid()) in nameless.run
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert processes.launched().run == "torchrun mine"
    monkeypatch.setenv("WORLD_SIZE", "six")
    with pytest.raises(OptionError, match="the environment says WORLD_SIZE=six"):
        processes.launched()


def test_each_process_has_its_gpu_before_lightning_says_so(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [processes.device_here(*asked) for asked in (("gpu", 4), ("cuda", 1), ("cuda:1", 1), ("cpu", 4))] == [
        "cuda:3", "cuda", "cuda:1", "cpu"
    ]  # fmt: skip


def test_other_numbers_of_processes_than_torchrun_s_are_refused(monkeypatch, capsys):
    set_torchrun(monkeypatch, 1)
    assert main(["train", *DIGITS, "--devices=4", "--out=run"]) == 2
    said = capsys.readouterr().err
    assert "--devices 4, but torchrun has started 1 node × 1 device; let it start as many, or leave --dev" in said
    assert not Path("run").exists()


def test_processes_of_torchrun_need_a_named_run_folder(monkeypatch, capsys):
    set_torchrun(monkeypatch, 2)
    assert main(["train", *DIGITS]) == 2
    said = capsys.readouterr().err
    assert "processes that this one has not started need a common run folder: --out RUNDIR" in said


def test_folder_of_another_run_is_refused_at_every_attempt_of_torchrun(monkeypatch, capsys):
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text("model: other\n")
    for attempt in (0, 1):
        set_torchrun(monkeypatch, 1, restarts=attempt)
        assert main(["train", *DIGITS, "--out=run"]) == 1
        said = capsys.readouterr().err
        assert "run: exists and is not empty; choose another --out, or continue with --resume run" in said


@pytest.mark.process
def test_two_tasks_of_slurm_and_a_job_that_is_requeued(whole):
    """Two processes with the variables of `srun --ntasks-per-node=2`."""
    common = {
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 9000),
        "SLURM_JOB_NAME": "job",
        "SLURM_NODELIST": "localhost",
    }
    common |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    common |= {"MASTER_ADDR": "127.0.0.1"}

    def tasks(*words, **more):
        return [
            start(*words, **common, **more, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in (0, 1)
        ]

    words = [*WORDS, "--out=run"]
    first, second = tasks(*words)
    wait_for(first, "epoch 1/4")
    first.send_signal(signal.SIGUSR1)  # --signal=USR1@120 of one task: the other stops with it
    said = finish(first) + finish(second)
    assert [first.returncode, second.returncode] == [128 + signal.SIGUSR1] * 2, said
    again = tasks(*words, SLURM_RESTART_COUNT="1")
    said = "".join(finish(process) for process in again)
    assert [process.returncode for process in again] == [0, 0], said
    assert said.count("ctxvision: SLURM has begun this run again (1 restart); continuing in run\n") == 1
    assert_same_weights(whole, "run")


@pytest.mark.parametrize("accumulate", [4, 8])
def test_every_step_has_the_whole_batch(tmp_path, monkeypatch, accumulate):
    make_folder(tmp_path / "data", {"train/cat": 13, "train/dog": 14, "val/cat": 2, "val/dog": 2})
    original, seen = ClassificationTask.training_step, []

    def counting(self, batch, batch_idx):
        seen.append((self.global_step, len(batch[0])))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", counting)
    words = ["train", "test_resnet", "data", "--image-size=16", "--device=cpu", "--workers=0", "--epochs=2"]
    words += ["--pictures=false"]
    assert main([*words, "--batch-size=16", f"--accumulate={accumulate}", "--out=run"]) == 0
    steps = [sum(images for _, images in group) for _, group in groupby(seen, key=lambda pair: pair[0])]
    assert steps == [16, 16]
