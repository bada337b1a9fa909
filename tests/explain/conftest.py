"""One tiny training run, made by the command that a user would type."""

import shutil

import pytest

from _pictures import make_folder
from ctxvision.cli import main

HOSTILE = '<script>alert("1")'
CLASSES = ["ant", "bee", "cat", "dog", "emu", "fox", HOSTILE]


def _train(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("run")
    data = make_folder(root / "data", dict.fromkeys(CLASSES, 5))
    options = ["--epochs=1", "--batch_size=14", "--image_size=32", "--workers=0", "--val_fraction=0.4"]
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
