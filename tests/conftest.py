"""Shared set-up: one thread per xdist worker, seeds, what marks a test as `slow` or `process`, runs made once."""

import os
import shutil
import signal
import sys
from pathlib import Path

import filelock
import hypothesis
import pytest
import torch

from _pictures import make_folder

hypothesis.settings.register_profile(
    "ctxvision", deadline=None, derandomize=True, database=None, max_examples=100, print_blob=False
)

SLOW_SECONDS = 5.0  # of processor time; what takes longer is marked `slow`
_STARTED = []  # what the current test has started, as words for a reader


def pytest_configure(config):
    hypothesis.settings.load_profile("ctxvision")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in jobs in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # float32 means float32 in the tests, on Ampere and later GPUs too
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    sys.addaudithook(_note_a_started_process)


def _note_a_started_process(event, arguments):
    """Remember Python interpreters that a test starts: each imports torch anew, which takes seconds.

    Forks, compilers and git cost next to nothing; inductor has compilers of its own making.
    """
    if event == "subprocess.Popen":
        given = arguments[1] if isinstance(arguments[1], (list, tuple)) else [arguments[1]]
        words = [os.fsdecode(word) for word in given]
        if words and "python" in os.path.basename(words[0]) and "compile_worker" not in " ".join(words):
            _STARTED.append(" ".join(words)[:80])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    _STARTED.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    began = sum(os.times()[:4])
    result = yield
    # also of processes that the test has started and that have ended
    item.user_properties.append(("processor seconds", sum(os.times()[:4]) - began))
    if _STARTED and item.get_closest_marker("process") is None:
        pytest.fail(f"the test has started a process, {_STARTED[0]}: mark it with pytest.mark.process")
    return result


def pytest_terminal_summary(terminalreporter):
    """Name tests that take long and are not marked so; how long is a matter of the machine, so none fails."""
    for report in terminalreporter.getreports("passed"):
        seconds = dict(report.user_properties).get("processor seconds", 0.0)
        marked = "slow" in report.keywords or "process" in report.keywords
        if report.when == "call" and seconds > SLOW_SECONDS and not marked:
            terminalreporter.write_line(
                f"{seconds:.1f} s of processor time without pytest.mark.slow: {report.nodeid}"
            )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Return a function that makes a folder once for all xdist workers: ``made_once(name, make) -> folder``.

    The first worker that asks calls ``make(folder)`` with an empty folder, while others wait. What is in it is not
    to be changed.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of the whole session
    root = root / "made-once"
    root.mkdir(exist_ok=True)

    def made(name, make):
        folder, done = root / name, root / f"{name}.done"
        with filelock.FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # the half of a worker that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


HOSTILE = '<script>alert("1")'
CLASSES = ["ant", "bee", "cat", "dog", "emu", "fox", HOSTILE]


def _train(model):
    """Return what trains a network for an epoch, as `made_once` calls it."""

    def make(root):
        from ctxvision.cli import main

        data = make_folder(root / "data", dict.fromkeys(CLASSES, 5))
        options = ["--epochs=1", "--batch-size=14", "--image-size=32", "--workers=0", "--val-fraction=0.4"]
        assert main(["train", model, str(data), "--out", str(root / "run"), *options, "--device=cpu"]) == 0

    return make


@pytest.fixture(scope="session")
def trained(made_once) -> Path:
    """The run folder of a contextual network; not to be changed."""
    return made_once("contextual", _train("contextual_convnext_micro")) / "run"


@pytest.fixture(scope="session")
def trained_plain(made_once) -> Path:
    """The run folder of a network that is not contextual; not to be changed."""
    return made_once("plain", _train("resnet10t")) / "run"


@pytest.fixture(scope="session")
def networks_of(made_once):
    """Return ``networks_of(task) -> folder`` with a lively network: ``best.ckpt``, ``run``; not to be changed."""

    def of(task):
        from _exported import write_network

        return made_once(f"network-{task}", lambda folder: write_network(folder, task))

    return of


@pytest.fixture(scope="session")
def exported(networks_of, made_once):
    """Return ``exported(task, "net.onnx") -> path`` of the same network, exported once for all tests."""

    def of(task, name):
        from _exported import export

        checkpoint = networks_of(task) / "best.ckpt"
        return made_once(f"{task}-{name}", lambda folder: export(checkpoint, folder / name)) / name

    return of


@pytest.fixture
def run(trained, tmp_path):
    """A run folder that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")
