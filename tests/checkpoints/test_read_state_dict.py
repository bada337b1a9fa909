"""Reading untrusted files: every layout that is out there, and every way in which a file can be bad."""

import argparse
import contextlib
import io
import os
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from ctxvision.checkpoints import CheckpointError, read_state_dict

WEIGHTS = {"conv1.weight": torch.arange(24.0).view(2, 3, 2, 2), "bn1.num_batches_tracked": torch.tensor(7)}
AVERAGE = {name: value + 1 for name, value in WEIGHTS.items()}
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def wrapped(tensors, prefix="module."):
    return OrderedDict((prefix + name, value) for name, value in tensors.items())


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0)


def message(path, **options):
    """The error that reading raises: one line that begins with the file."""
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


# -------------------------------------------------------------------------------- layouts


@FORMATS
@pytest.mark.parametrize(
    "checkpoint",
    [
        WEIGHTS,
        wrapped(WEIGHTS),
        {
            "state_dict": WEIGHTS,
            "epoch": 3,
            "arch": "cotnet50",
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        },
        {"state_dict": wrapped(WEIGHTS), "state_dict_ema": None},
        {"model": wrapped(WEIGHTS, "_orig_mod.module."), "args": argparse.Namespace(lr=0.1, opt=["sgd"])},
        {"meta": {"CLASSES": ["cat", "dog"], "time": "now"}, "state_dict": WEIGHTS},
        {"state_dict": {name: torch.nn.Parameter(value, False) for name, value in WEIGHTS.items()}},
    ],
    ids=["bare", "module", "timm", "no ema", "model", "openmmlab", "parameters"],
)
def test_reads_every_layout(tmp_path, checkpoint, zipped):
    torch.save(checkpoint, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    tensors = read_state_dict(tmp_path / "a.pth.tar")
    assert_same(tensors, WEIGHTS)
    assert not any(value.requires_grad for value in tensors.values())


@pytest.mark.parametrize(("raw", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_takes_the_moving_average_unless_told_not_to(tmp_path, raw, average):
    torch.save({raw: WEIGHTS, average: wrapped(AVERAGE)}, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), AVERAGE)
    assert_same(read_state_dict(tmp_path / "a.pth", ema=False), WEIGHTS)


def test_moving_average_only(tmp_path):
    torch.save({"state_dict_ema": AVERAGE}, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), AVERAGE)
    assert "only the moving average" in message(tmp_path / "a.pth", ema=False)


def test_reads_safetensors_and_text_paths(tmp_path):
    safetensors.torch.save_file(wrapped(WEIGHTS), tmp_path / "a.safetensors")
    assert_same(read_state_dict(str(tmp_path / "a.safetensors")), dict(sorted(WEIGHTS.items())))


@FORMATS
def test_bookkeeping_of_the_published_cotnet_files(tmp_path, monkeypatch, zipped):
    # CoTNet's saver stores its yacs configuration (a dict subclass) and the accuracy as a NumPy scalar
    class CfgNode(dict):
        def __init__(self):
            super().__init__()
            self.__dict__["__immutable__"] = True

        def __setstate__(self, state):
            raise AssertionError("code of a class that the file names was run")

    yacs = types.ModuleType("yacs.config")
    CfgNode.__module__, CfgNode.__qualname__, yacs.CfgNode = "yacs.config", "CfgNode", CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", yacs)
    options = CfgNode()
    options["model"] = CfgNode()
    options["model"]["name"] = "cotnet50"
    checkpoint = {
        "epoch": 350,
        "args": options,
        "state_dict": WEIGHTS,
        "metric": np.float32(0.813),
        "version": 2,
    }
    torch.save(checkpoint, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "yacs.config")  # the reader need not have yacs
    monkeypatch.delitem(sys.modules, "yacs")
    assert_same(read_state_dict(tmp_path / "a.pth.tar"), WEIGHTS)


# -------------------------------------------------------------------------------- bad files


def test_missing_folder_empty(tmp_path):
    assert "no such file" in message(tmp_path / "nowhere.pth")
    assert "is a folder" in message(tmp_path)
    (tmp_path / "empty.pth").touch()
    assert "is empty" in message(tmp_path / "empty.pth")


@pytest.mark.parametrize("suffix", ["zip", "legacy", "safetensors"])
def test_every_truncation_is_one_clear_line(tmp_path, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(WEIGHTS, whole)
    else:
        torch.save({"state_dict": WEIGHTS, "epoch": 1}, whole, _use_new_zipfile_serialization=suffix == "zip")
    data = whole.read_bytes()
    for length in range(1, len(data)):
        cut.write_bytes(data[:length])
        text = message(cut)
        assert "truncated" in text or length < 4, (length, text)


@FORMATS
def test_flipped_bytes_never_raise_anything_else(tmp_path, zipped):
    buffer = io.BytesIO()
    torch.save({"state_dict": WEIGHTS}, buffer, _use_new_zipfile_serialization=zipped)
    data, path = buffer.getvalue(), tmp_path / "a.pth"
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 300):
        broken = bytearray(data)
        broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with contextlib.suppress(CheckpointError):
            read_state_dict(path)


@pytest.mark.parametrize("data", [b"hello, world\n" * 9, bytes(range(200, 256)), b"PNG\r\n" * 50, b"\x00" * 64])
def test_not_a_checkpoint(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    assert "not a checkpoint" in message(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"epoch": 3, "lr": 0.1}, "2 entries are not dense tensors (epoch, lr)"),
        ({"state_dict": {"w": torch.eye(2).to_sparse()}}, "not dense tensors (w)"),
        ({"w": torch.zeros(2), "module.w": torch.ones(2)}, "holds w twice"),
    ],
)
def test_not_a_state_dict(tmp_path, content, reason):
    torch.save(content, tmp_path / "a.pth")
    assert reason in message(tmp_path / "a.pth")


class Payload:
    """Unpickling it with the standard unpickler creates a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy", 0, 1, 2, 3, 4, 5])
def test_code_is_refused_and_not_executed(tmp_path, how):
    proof, path = tmp_path / "executed", tmp_path / "a.pth"
    content = {"state_dict": WEIGHTS, "args": Payload(proof)}
    if isinstance(how, int):
        path.write_bytes(pickle.dumps({"args": Payload(proof)}, protocol=how))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    text = message(path)
    # protocol 0 has no signature: such a file cannot be told from plain text
    assert ("not a checkpoint" in text) if how == 0 else ("refused" in text and "none of it was executed" in text)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Payload(proof)))  # the payload is live: the check above means something
    assert proof.exists()


def test_names_what_the_code_asks_for(tmp_path):
    torch.save({"state_dict": WEIGHTS, "args": Payload(tmp_path / "executed")}, tmp_path / "a.pth")
    assert f"(it asks for {os.mkdir.__module__}.mkdir)" in message(tmp_path / "a.pth")


def test_whole_module_and_torchscript_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    assert "torch.nn.modules.linear.Linear" in message(tmp_path / "a.pth")
