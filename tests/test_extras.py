"""What a user is told to install: the extra of the command that was called, once, from where ctxvision came."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ctxvision import _extras
from ctxvision._cli.messages import explain_error
from ctxvision._extras import install_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
COMMANDS = {  # the extra of each, and words with which it begins to work
    "train": ("train", ["cotnet_micro", "digits"]),
    "evaluate": ("train", ["a.ckpt", "digits"]),
    "predict": ("train", ["a.ckpt", "picture.png"]),
    "report": ("train", ["a.ckpt", "--out", "page.html"]),
    "explain": ("explain", ["a.ckpt", "digits", "--out", "pages"]),
    "export": ("export", ["a.ckpt", "net.onnx"]),
    "serve": ("serve", ["a.ckpt"]),
    "publish": ("train", ["a.ckpt", "folder"]),
    "benchmark": ("train", ["resnet10t", "--against", "a.ckpt"]),
}

BROUGHT = {"PIL", "jinja2", "yaml"}  # by torchvision, torch and timm: an extra only asks for a later version
ABSENT = set(_extras._EXTRAS) - BROUGHT  # where no extra is installed


def included(extra):
    """Return the extras that one brings, over all steps."""
    direct = [match[1] for line in DECLARED[extra] if (match := re.match(r"ctxvision\[(.*)\]", line))]
    names = {name for names in direct for name in names.split(",")}
    return names.union(*map(included, names))


def packages(extra):
    """Return the packages that come with an extra alone, as Python imports them."""
    return {package for package, owner in _extras._EXTRAS.items() if owner in {extra, *included(extra)}}


def test_the_table_says_what_is_declared():
    extras = {extra: included(extra) for extra in DECLARED if extra != "dev"}
    assert {extra: set(names) for extra, names in _extras._INCLUDES.items()} == {
        e: n for e, n in extras.items() if n
    }
    assert set(_extras._EXTRAS.values()) <= set(extras)


def called(calls, missing):
    """Run commands in an interpreter that lacks these packages; returns the exit code and the errors of each."""
    code = f"""
import contextlib, io, json, sys
for name in {sorted(missing)}:
    sys.modules[name] = None
from ctxvision.cli import main
for words in {calls}:
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(words)
        except SystemExit as stop:  # --help
            code = stop.code or 0
    print(json.dumps([code, errors.getvalue()]))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.mark.process
def test_without_any_extra_a_command_names_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = called([[command, *words] for command, (_, words) in COMMANDS.items()], ABSENT)
    for (command, (extra, _)), (code, said) in zip(COMMANDS.items(), answers, strict=True):
        assert code == 1, command
        assert said.splitlines()[-1].endswith(f": {install_command(extra)}"), said
        assert said.count("pip install") == 1, said


@pytest.mark.process
def test_without_any_extra_lists_and_help_are_there():
    answers = called([["--help"], ["models", "cotnet_micro"], ["recipes"], ["serve", "--help"]], ABSENT)
    assert [(code, "pip install" in said) for code, said in answers] == [(0, False)] * 4


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("command", ["explain", "export", "serve", "train"])
def test_the_extra_that_is_named_is_enough(command, tmp_path, monkeypatch, trained_plain):
    """Without the packages of all other extras, the command goes on to the next mistake, or works."""
    monkeypatch.chdir(tmp_path)
    extra, words = COMMANDS[command]
    checkpoint = str(trained_plain / "checkpoints" / "best.ckpt")
    words = [checkpoint if word == "a.ckpt" else word for word in words]
    last = ["--port", "99999"] if command == "serve" else ["--image-size", "0"] if command == "train" else []
    [(_, said)] = called([[command, *words, *last]], ABSENT - packages(extra))
    assert "pip install" not in said
    assert "unexpected" not in said


@pytest.mark.parametrize(
    ("words", "package", "extras"),
    [
        (["train", "a", "b", "--task", "detect"], "lightning", ["detect"]),
        (["train", "a", "b", "--task=segment"], "yaml", ["segment"]),
        (["export", "a", "--task", "video"], "lightning", ["export", "video"]),
        (["predict", "a.ckpt", "clip.mp4"], "av", ["video"]),
        (["serve", "a.ckpt"], "h5py", ["serve"]),
        (["explain", "a.ckpt", "coco"], "faster_coco_eval", ["explain", "detect"]),
        (["convert", "a.h5"], "h5py", ["weights"]),
        ([], "fastapi", ["serve"]),
    ],
)
def test_extras_of_command_and_task_are_named_together(words, package, extras):
    error = ModuleNotFoundError(f"No module named '{package}'", name=package)
    assert explain_error(error, words) == f"this command needs the package {package}: {install_command(*extras)}"


class Distribution:
    def __init__(self, note):
        self.note = note

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.note and json.dumps(self.note)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (None, 'pip install "ctxvision[serve]"'),
        ({"url": "file:///w/ctxvision.whl", "archive_info": {}}, 'pip install "ctxvision[serve] @ file:///w/ctxvision.whl"'),
        ({"url": "file:///gone", "dir_info": {}}, 'pip install ".[serve]" in a clone of ctxvision'),
        ({"url": ROOT.as_uri(), "dir_info": {}}, f'pip install "{ROOT}[serve]"'),
        ({"url": ROOT.as_uri(), "dir_info": {"editable": True}}, f'pip install -e "{ROOT}[serve]"'),
        ({"url": "https://h/c.git", "vcs_info": {"vcs": "git"}}, 'pip install "ctxvision[serve] @ git+https://h/c.git"'),
    ],
    ids=["index", "wheel", "lost clone", "clone", "editable clone", "git"],
)  # fmt: skip
def test_it_is_installed_from_where_ctxvision_came(note, expected, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(note))
    assert install_command("serve", "train") == expected
    assert install_command("serve", upgrade=True) == expected.replace("install", "install --upgrade")


def test_sources_on_the_path_were_installed_from_nowhere(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_command("train") == 'pip install ".[train]" in a clone of ctxvision'
