"""``environment.json`` and ``git.diff``: what a run was started from."""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ctxvision.runs import RunFolder
from ctxvision.training import environment
from ctxvision.training.environment import Environment, _without_password, read_git_state


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)


def git(*words):
    names = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *names, *words], check=True, capture_output=True)


@pytest.fixture
def repository():
    git("init", "-b", "trunk")
    Path("code.py").write_text("one = 1\n")
    Path("other.py").write_text("two = 2\n")
    git("add", ".")
    git("commit", "-m", "first")
    return Path.cwd()


def trainer(processes=1):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=processes)


def written(folder, resumed=None):
    folder.mkdir(exist_ok=True)
    Environment().write(RunFolder(folder), trainer(), resumed, {})
    return json.loads((folder / "environment.json").read_text())


def test_what_is_recorded(repository, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hush-hush")
    monkeypatch.setattr("sys.argv", ["ctxvision", "train", "x", "https://me:pass@host/a.tar?sig=abc", "--lr", "1"])
    (entry,) = written(Path("run"))
    assert entry["command"] == ["ctxvision", "train", "x", "https://host/a.tar", "--lr", "1"]
    assert entry["packages"]["torch"] == torch.__version__.split("+")[0] or entry["packages"]["torch"]
    assert entry["threads"] == torch.get_num_threads()
    assert entry["cpus"] == os.cpu_count()
    assert entry["device"] == "cpu"
    assert entry["device_name"]
    assert entry["started"].endswith("+00:00")
    assert [backend["name"] for backend in entry["operators"]] == ["native", "triton", "torch"]
    assert entry["git"]["branch"] == "trunk"
    assert len(entry["git"]["commit"]) == 40
    assert (entry["git"]["changed_files"], entry["git"]["untracked_files"], entry["git"]["diff"]) == (0, 0, None)
    assert "hush-hush" not in Path("run/environment.json").read_text()


def test_a_resumed_run_adds_an_entry(repository):
    Path("code.py").write_text("one = 11\n")
    written(Path("run"))
    first = Path("run/git.diff").read_text()
    assert "+one = 11" in first
    entries = written(Path("run"), Path("run/checkpoints/last.ckpt"))
    assert [entry["resumed_from"] for entry in entries] == [None, "last.ckpt"]
    assert entries[1]["git"]["diff"] == "git.diff"
    Path("code.py").write_text("one = 111\n")
    assert written(Path("run"))[2]["git"]["diff"] == "git-2.diff"
    assert Path("run/git.diff").read_text() == first
    assert "+one = 111" in Path("run/git-2.diff").read_text()


@pytest.mark.parametrize("text", ["{", '"x"', ""])
def test_a_damaged_file_does_not_end_a_run(text):
    Path("run").mkdir()
    Path("run/environment.json").write_text(text)
    assert len(written(Path("run"))) == 1


def test_diff_holds_all_changes_and_can_be_applied(repository):
    Path("code.py").write_text("one = 11\n")
    git("add", "code.py")
    Path("other.py").write_text("two = 22\n")
    Path("new.py").write_text("three = 3\n")
    Path("sub").mkdir()
    state = read_git_state(Path("sub"))
    assert (state.facts["changed_files"], state.facts["untracked_files"]) == (2, 1)
    git("reset", "--hard")
    Path("state.diff").write_bytes(state.diff)
    git("apply", "state.diff")
    assert (Path("code.py").read_text(), Path("other.py").read_text()) == ("one = 11\n", "two = 22\n")


def test_a_large_diff_is_cut(repository):
    Path("code.py").write_text("".join(f"line {i}\n" for i in range(200_000)))
    diff = read_git_state(Path()).diff
    assert (1 << 20) - 100 < len(diff) < (1 << 20) + 100
    assert diff.endswith(b"# cut here: the rest would exceed one mebibyte\n")
    assert diff.splitlines()[-2].startswith(b"+line ")


def test_no_repository_no_commit_no_git(tmp_path, monkeypatch):
    assert read_git_state(tmp_path) is None
    git("init", "-b", "trunk")
    state = read_git_state(tmp_path)
    assert (state.facts["commit"], state.facts["branch"], state.diff) == (None, "trunk", b"")
    monkeypatch.setattr(environment, "_GIT", ("no-such-program",))
    assert read_git_state(tmp_path) is None
    (entry,) = written(tmp_path / "run")
    assert entry["git"] is None


def test_a_git_that_hangs_is_left_alone(repository, tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\ncase "$*" in *status*) exec sleep 60;; *) exec git "$@";; esac\n')
    slow.chmod(0o755)
    monkeypatch.setattr(environment, "_GIT", (str(slow),))
    monkeypatch.setattr(environment, "_SECONDS", 3.0)
    begun = time.monotonic()
    state = read_git_state(repository)
    assert time.monotonic() - begun < 50
    assert state.facts["commit"]
    assert state.facts["changed_files"] is None


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("https://u:p@host/x", "https://host/x"),
        ("s3://bucket/a?token=1", "s3://bucket/a"),
        ("me@host:/data", "me@host:/data"),
        ("--lr=0.1", "--lr=0.1"),
        ("what?", "what?"),
    ],
)
def test_passwords_stay_out(word, shown):
    assert _without_password(word) == shown
