"""Commands that are given the name of a network with pretrained weights, instead of a file."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from ctxvision import cli
from ctxvision.inference import open_predictor
from ctxvision.models._weights import WEIGHTS

NAME = "rednet26"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a photograph; the weights lie in the cache, converted, and no connection is needed."""
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(0)
    file = WEIGHTS[NAME].url.rpartition("/")[2].replace(".pdparams", ".safetensors")
    safetensors.torch.save_file(timm.create_model(NAME).state_dict(), cache / file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CTXVISION_WEIGHTS_MIRROR", "http://127.0.0.1:1")  # nobody listens
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


def test_predict_and_publish(place, capsys):
    assert cli.main(["predict", NAME, "photo.png", "--format", "json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    predictor = open_predictor(NAME)
    assert predictor.data_spec.interpolation == "bilinear"
    assert answer["predictions"][0]["class"] in predictor.class_names
    assert "tench" in predictor.class_names[0]
    assert cli.main(["publish", NAME, "net"]) == 0
    card = (place / "net/README.md").read_text()
    assert "license: apache-2.0" in card
    assert "PaddleClas" in card
    assert "75.95" in card
    assert "@inproceedings{involution" in card
    assert "with ctxvision." not in card


def test_export_takes_the_name(place, capsys):
    assert cli.main(["export", NAME, "net.onnx"]) == 0
    assert (place / "net.onnx").is_file()


def test_without_a_connection_it_says_what_to_do(place, capsys):
    for command in (["predict", "rednet38", "photo.png"], ["publish", "rednet38", "net"]):
        assert cli.main(command) == 1
        line = capsys.readouterr().err
        assert "check the connection" in line
        assert "RedNet38_pretrained.pdparams" in line
        assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "advice"), [("cotnet50", "is not the authors'"), ("contextual_resnet50", "--init_from")]
)
def test_networks_without_weights(place, capsys, name, advice):
    assert cli.main(["predict", name, "photo.png"]) == 1
    assert advice in capsys.readouterr().err
