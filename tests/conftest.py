"""Shared set-up: one thread per xdist worker, reproducible hypothesis examples, a fixed seed per test."""

import os
import shutil

import hypothesis
import pytest
import torch

from _pictures import make_folder

hypothesis.settings.register_profile(
    "ctxvision", deadline=None, derandomize=True, database=None, max_examples=100, print_blob=False
)


def pytest_configure(config):
    hypothesis.settings.load_profile("ctxvision")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    # float32 means float32 in the tests, on Ampere and later GPUs too
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


HOSTILE = '<script>alert("1")'
CLASSES = ["ant", "bee", "cat", "dog", "emu", "fox", HOSTILE]


def _train(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("run")
    data = make_folder(root / "data", dict.fromkeys(CLASSES, 5))
    options = ["--epochs=1", "--batch_size=14", "--image_size=32", "--workers=0", "--val_fraction=0.4"]
    from ctxvision.cli import main

    assert main(["train", model, str(data), "--out", str(root / "run"), *options, "--accelerator=cpu"]) == 0
    return root / "run"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The run folder of a contextual network; not to be changed."""
    return _train(tmp_path_factory, "contextual_convnext_micro")


@pytest.fixture(scope="session")
def trained_plain(tmp_path_factory):
    """The run folder of a network that is not contextual; not to be changed."""
    return _train(tmp_path_factory, "resnet10t")


@pytest.fixture
def run(trained, tmp_path):
    """A run folder that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")
