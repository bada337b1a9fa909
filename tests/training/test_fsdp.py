"""`--strategy fsdp`: two processes train to the weights of one; checkpoints are whole."""

import os

import pytest
import timm
import torch

import ctxvision.models  # noqa: F401 - registers the networks
from _pictures import make_folder
from _processes import finish, start, weights
from ctxvision.cli import main
from ctxvision.tasks import load_task
from ctxvision.training.trainer import blocks

FOLDER = {"train/cat": 12, "train/dog": 12, "val/cat": 6, "val/dog": 6}
WORDS = ["data", "--image-size=32", "--batch-size=8", "--device=cpu", "--workers=0", "--epochs=2"]
# a rate that does not depend on how many epochs the run has
WORDS += ["--schedule=step", "--schedule-args={decay_epochs: 100}", "--warmup-epochs=0"]
WORDS += ["--pictures=false"]
WORDS += ["--precision=64-true", "--lr=0.01", "--clip-grad=1", "--layer-decay=0.9", "--random-erasing=0.3"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.process
def test_two_processes_train_to_the_weights_of_one_and_resume(tmp_path):
    make_folder(tmp_path / "data", FOLDER)
    assert main(["train", "test_convnext", *WORDS, "--out=one"]) == 0
    sharded = ["--devices=2", "--strategy=fsdp", "--out=two"]
    said = finish(process := start("test_convnext", *WORDS, *sharded, "--epochs=1"))
    assert process.returncode == 0, said
    said = finish(process := start("--resume=two", "--epochs=2"))
    assert process.returncode == 0, said
    assert "continuing test_convnext" in said
    one, two = weights("one"), weights("two")
    assert one["global_step"] == two["global_step"] == 6
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-10, atol=1e-12)
    task = load_task("two/checkpoints/last.ckpt")
    assert task(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--strategy fsdp shares a network out among several devices; add --devices"),
        (["--devices=2", "--ema=0.9"], "--ema does not go together with --strategy fsdp"),
        (["--devices=2", "--skip-nan=1"], "--skip-nan does not go together with --strategy fsdp"),
        (["--devices=2", "--compile"], "--compile does not go together with --strategy fsdp"),
        (["--devices=2", "--precision=16-mixed"], "take bf16-mixed"),
        (["--devices=2", "--optimizer=lamb"], "needs one of sgd, momentum, adam, adamw, not lamb"),
    ],
)
def test_what_does_not_go_together(capsys, words, told):
    digits = ["train", "test_resnet", "digits", "--image-size=16", "--device=cpu", "--strategy=fsdp"]
    assert main([*digits, *words, "--out=run"]) == 2
    assert told in capsys.readouterr().err
    assert not os.path.exists("run")


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet50", 16), ("convnext_tiny", 18), ("cotnet50", 16), ("rednet26", 8), ("contextual_convnext_tiny", 18),
     ("efficientnet_b0", 16), ("vit_tiny_patch16_224", 12)],
)  # fmt: skip
def test_blocks_are_found_by_their_names(name, count):
    with torch.device("meta"):
        found = blocks(timm.create_model(name))
    assert len(found) == count
    assert not any(one != other and other.startswith(f"{one}.") for one in found for other in found)
