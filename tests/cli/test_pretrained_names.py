"""Everything that takes the name of a network with pretrained weights, instead of a file."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from _mirror import mirror, rednet_file
from _serving import ask, encoded
from ctxvision import cli
from ctxvision.checkpoints import CheckpointError
from ctxvision.inference import open_predictor
from ctxvision.models._weights import PLAIN
from ctxvision.serve import create_app, open_networks

NAME = "rednet26"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photographs, and weights that a server on this machine kept and that came once for all."""
    folder = tmp_path_factory.mktemp("newcomer")
    rng = np.random.default_rng(0)
    photos = (f"photos/{name}/{number}.png" for name in ("goldfish", "tench") for number in (1, 2))
    for name in ("photo.png", *photos, "ids/n01440764/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(folder / name)
    with pytest.MonkeyPatch.context() as patch, mirror() as server:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("CTXVISION_WEIGHTS_MIRROR", server.url(""))
        server.content = rednet_file(NAME)
        timm.create_model(NAME, pretrained=True)
        assert server.asked == 1
    return folder


@pytest.fixture
def place(folder, monkeypatch):
    """The folder, without a connection."""
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setenv("CTXVISION_WEIGHTS_MIRROR", "http://127.0.0.1:1")  # nobody listens
    monkeypatch.chdir(folder)
    return folder


def test_open_predictor(place):
    predictor = open_predictor(NAME)
    assert predictor.data_spec.interpolation == "bilinear"
    assert predictor.class_names[:2] == ("tench", "goldfish")
    torch.manual_seed(0)
    assert torch.equal(predictor.network.fc.weight, timm.create_model(NAME).fc.weight)


def test_predict(place, capsys):
    assert cli.main(["predict", NAME, "photo.png", "--format", "json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert {found["class"] for found in answer["predictions"]} <= set(open_predictor(NAME).class_names)


@pytest.mark.slow
def test_explain(place, capsys, tmp_path):
    assert cli.main(["explain", f"{NAME}.in1k", "photo.png", "--out", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "explain.json").read_text())["images"]
    assert found["predictions"][0]["class"] in open_predictor(NAME).class_names
    assert (tmp_path / "explain.html").is_file()


@pytest.mark.parametrize(("data", "images"), [("photos", 4), ("ids", 1)])
def test_evaluate(place, capsys, tmp_path, data, images):
    assert cli.main(["evaluate", NAME, data, "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["images"] == images
    assert [row["name"] for row in scores["classes"] if row["images"]] == ["tench", "goldfish"][: 1 + images // 4]


def test_evaluate_refuses_ids_that_are_none_of_imagenet(place, capsys, tmp_path):
    (tmp_path / "n99999999").mkdir()
    (tmp_path / "n99999999/1.png").write_bytes(encoded())
    assert cli.main(["evaluate", NAME, str(tmp_path)]) == 1
    assert "no class 'n99999999'" in capsys.readouterr().err


def test_serve(place):
    app = create_app(open_networks([NAME]))
    (found,) = ask(app, "POST", "/predict", files={"image": encoded()}).json()["predictions"]
    assert found[0]["class"] in open_predictor(NAME).class_names


@pytest.mark.slow
def test_export_and_publish(place, tmp_path):
    assert cli.main(["export", NAME, str(tmp_path / "net.onnx")]) == 0
    exported = open_predictor(tmp_path / "net.onnx")
    assert exported.class_names == open_predictor(NAME).class_names
    assert cli.main(["publish", NAME, str(tmp_path / "net")]) == 0
    card = (tmp_path / "net/README.md").read_text()
    assert "license: apache-2.0" in card
    assert "PaddleClas" in card
    assert "75.95" in card
    assert "@inproceedings{involution" in card
    assert "with ctxvision." not in card


def test_benchmark(place, capsys):
    assert (
        cli.main(["benchmark", NAME, "--size", "64", "--batch-size", "1", "--seconds", "0.1", "--skip-memory"])
        == 0
    )
    assert NAME in capsys.readouterr().out


@pytest.mark.slow
def test_train_starts_from_the_weights(place, capsys, tmp_path):
    words = ["train", NAME, "photos", "--init-from", NAME, "--image-size", "32", "--epochs", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert f"{NAME}: loaded 249 of 251 tensors; new: classifier\n" in said


COMMANDS = {
    "predict": ["rednet38", "photo.png"],
    "explain": ["rednet38", "photo.png", "--out", "where"],
    "evaluate": ["rednet38", "photos"],
    "serve": ["rednet38", "--port", "0"],
    "export": ["rednet38", "net.onnx"],
    "publish": ["rednet38", "net"],
    "train": ["rednet38", "photos", "--init-from", "rednet38", "--out", "run"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_connection_it_says_what_to_do(place, capsys, command):
    assert cli.main([command, *COMMANDS[command]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "check the connection" in line
    assert "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/RedNet38_pretrained.pdparams" in line
    assert str(place / "torch/hub/checkpoints/RedNet38_pretrained.pdparams") in line
    assert not any((place / left).exists() for left in ("where", "net.onnx", "net", "run"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [("cotnet50", "is not the authors'"), *((name, f"--init-from {plain}") for name, plain in PLAIN.items())],
)
def test_networks_without_weights(place, capsys, name, advice):
    assert cli.main(["predict", name, "photo.png"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert advice in line
    with pytest.raises(CheckpointError, match=name):
        open_predictor(name)


@pytest.mark.parametrize("name", ["cotnet50", "contextual_resnet50"])
def test_no_training_starts_from_weights_that_nobody_published(place, capsys, name):
    assert cli.main(["train", name, "photos", "--init-from", name, "--out", "run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ctxvision: error: {name}: ")
    assert not (place / "run").exists()
