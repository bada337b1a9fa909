"""What cannot be published is one line, and no folder is half written."""

import math
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from _publishing import run, save, task_of

from ctxvision.publish import (
    Provenance,
    PublishError,
    publish,
)


def test_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    task = task_of()
    publish(task, tmp_path / "net", license="mit")
    before = {p.name: p.read_bytes() for p in (tmp_path / "net").iterdir()}
    other = task_of().model
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: other)
    for target in ("net", "new"):
        with pytest.raises(PublishError, match="its logits differ"):
            publish(task, tmp_path / target, overwrite=True)

    def fail(_handle):
        raise OSError(28, "No space left")

    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(PublishError, match="cannot be written"):
        publish(task, tmp_path / "net", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "net").iterdir()} == before
    assert os.listdir(tmp_path) == ["net"]


def test_earlier_folder_is_replaced_only_on_request(tmp_path, capsys):
    first, second = task_of(), task_of()
    (tmp_path / "net").mkdir()  # an empty one will do
    publish(first, tmp_path / "net", provenance=Provenance(settings={"lr": 1}))
    checkpoint = save(second, tmp_path / "b.ckpt")
    code, _, err = run(capsys, checkpoint, tmp_path / "net")
    assert code == 1
    assert "allow --overwrite" in err
    assert run(capsys, checkpoint, tmp_path / "net", "--overwrite")[0] == 0
    assert sorted(os.listdir(tmp_path / "net")) == ["README.md", "config.json", "model.safetensors"]
    found = safetensors.torch.load_file(tmp_path / "net" / "model.safetensors")
    assert torch.equal(found["fc.weight"], second.model.fc.weight)
    (tmp_path / "net" / "mine.txt").touch()
    code, _, err = run(capsys, checkpoint, tmp_path / "net", "--overwrite")
    assert code == 1
    assert "is not empty (it holds mine.txt)" in err


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def _checkpoint(kind, folder):
    path = folder / "some.ckpt"
    if kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        torch.save({"ctxvision": Attack()}, path)
    elif kind == "other":
        torch.save({"state_dict": {}}, path)
    elif kind == "nan":
        task = task_of()
        task.model.fc.bias.data[0] = math.nan
        save(task, path)
    elif kind == "detector":
        from ctxvision.data import DetectionSpec
        from ctxvision.tasks.detection import DetectionTask

        task = DetectionTask("rednet_micro", DetectionSpec(("a",), (1,)).to_dict())
        save(task, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("text", "not a checkpoint"),
        ("pickle", "refused: it holds more than tensors"),
        ("other", "not a checkpoint of `ctxvision train`"),
        ("nan", "hold NaN or infinity"),
        ("detector", "its task is detection, and timm holds classifiers"),
    ],
)
def test_what_cannot_be_published_is_one_line(kind, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, _checkpoint(kind, tmp_path), "net")
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("net").exists()
    assert not Path("attacked").exists()


def test_wrong_words_are_refused_before_any_work(tmp_path, capsys):
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    for words, code, message in (
        ([tmp_path / "no" / "net"], 1, "create it first"),
        ([checkpoint], 1, "is a file; name a folder"),
        ([tmp_path / "net", "--license", "My Own"], 1, "write it as the hub does"),
        ([tmp_path / "net", "--private"], 2, "--private is for --push"),
        ([tmp_path / "net", "--push", "no spaces/allowed"], 1, "write user/repo"),
        ([tmp_path / "net", "--push", "alone"], 1, "does not say whose"),
    ):
        found, out, err = run(capsys, checkpoint, *words)
        assert (found, out) == (code, "")
        assert message in err
        assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_model_arguments_that_are_not_json_are_named(tmp_path):
    task = task_of("test_resnet")
    task.hparams["model_args"] = {"act_layer": torch.nn.ReLU}
    with pytest.raises(PublishError, match="test_resnet: its arguments cannot be written as JSON"):
        publish(task, tmp_path / "net")
