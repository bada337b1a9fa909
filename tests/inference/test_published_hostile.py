"""Published folders of strangers, which timm builds."""

import json

import pytest
import safetensors.torch
import timm
import torch

from ctxvision.checkpoints import CheckpointError
from ctxvision.inference.answer import InferenceError
from ctxvision.inference.opening import open_published


@pytest.fixture
def write(tmp_path):
    def written(weights=None, about=None, **config):
        net = timm.create_model("test_resnet", num_classes=3)
        state = {name: value.contiguous() for name, value in net.state_dict().items()} | (weights or {})
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
        described = {"input_size": [3, 32, 32], "num_classes": 3, "crop_pct": 0.9, **(about or {})}
        content = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": described, **config}
        (tmp_path / "config.json").write_text(json.dumps(content))
        return f"local-dir:{tmp_path}"

    return written


def test_a_good_folder(write):
    assert open_published(write()).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": {"input_size": [3, 100_000, 100_000]}}, "input_size is 100,000"),
        ({"about": {"input_size": None}}, "input_size must be"),
        ({"about": {"crop_pct": "x"}}, "crop_pct must be"),
        ({"num_classes": 10**9}, "num_classes is 1,000,000,000"),
        ({"num_classes": 10**7}, "far larger than the file"),
        ({"model_args": {"stem_width": 65_536}}, "far larger than the file|timm cannot build it"),
        ({"model_args": {"layers": 10**9}}, "layers is 1,000,000,000"),
        ({"model_args": "x"}, "timm cannot build it"),
        ({"architecture": 5}, "does not describe a network"),
        ({"architecture": "no_such_net"}, "timm cannot build it"),
        ({"pretrained_cfg": []}, "does not describe a network"),
    ],
)
def test_settings_of_strangers(write, change, message):
    with pytest.raises(InferenceError, match=message) as raised:
        open_published(write(**change))
    assert "\n" not in str(raised.value)


def test_weights_that_are_no_numbers(write):
    with pytest.raises(CheckpointError, match=r"NaN or infinity \(fc.bias\)"):
        open_published(write({"fc.bias": torch.tensor([0, float("nan"), 0])}))


def test_other_files_are_not_taken(write, tmp_path):
    name = write()
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InferenceError, match=r"no model\.safetensors"):
        open_published(name)
    name = write()
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InferenceError, match="not JSON"):
        open_published(name)
