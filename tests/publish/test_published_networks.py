"""Published networks and timm's own functions for the hub: what is loaded computes what was trained."""

import csv
import json
import subprocess
import sys
import types

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from _publishing import NETWORKS, SPEC, card_of, lively, run, save, task_of
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import push_to_hf_hub, save_for_hf

from ctxvision import cli
from ctxvision.data import DataSpec
from ctxvision.models import count_macs
from ctxvision.publish import (
    publish,
)
from ctxvision.tasks import load_task


@pytest.mark.parametrize("name", NETWORKS)
def test_local_folder_computes_what_was_trained_bit_by_bit(name, tmp_path):
    task = task_of(name)
    facts = publish(task, tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    images = torch.randn(3, *SPEC["input_size"])
    with torch.inference_mode():
        expected = task(images)
        found = loaded.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found, expected)
    assert facts.macs == count_macs(task.model, SPEC["input_size"])
    assert facts.parameters == sum(p.numel() for p in loaded.parameters())
    assert loaded.pretrained_cfg["label_names"] == SPEC["class_names"]


@pytest.mark.process
def test_fresh_process_needs_only_ctxvision_and_timm(tmp_path):
    task = task_of("contextual_convnext_micro")
    publish(task, tmp_path / "net")
    images = torch.randn(2, *SPEC["input_size"])
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import ctxvision, timm, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "model = timm.create_model('local-dir:net', pretrained=True).eval()\n"
        "with torch.inference_mode():\n"
        "    torch.save(model(torch.load('images.pt', weights_only=True)), 'logits.pt')\n"
        "import sys; assert not {'lightning', 'ctxvision.tasks', 'ctxvision.publish'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    own = task.model.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), own(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_call_builds_the_same_network_and_its_body(name, tmp_path):
    """It hands the arguments on with a number of classes of its own, 0 for the body alone."""
    publish(task_of(name), tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    weights = safetensors.torch.load_file(tmp_path / "net" / "model.safetensors")
    for classes in (config["num_classes"], 0):
        network = timm.create_model(config["architecture"], num_classes=classes, **config["model_args"])
        loaded = network.load_state_dict(weights, strict=False)  # raises where shapes differ
        assert not loaded.missing_keys
        assert {key.partition(".")[0] for key in loaded.unexpected_keys} <= ({"fc"} if classes == 0 else set())


def test_images_are_prepared_as_in_training(tmp_path):
    publish(task_of(), tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    prepare = create_transform(**resolve_model_data_config(loaded), is_training=False)
    pixels = np.random.default_rng(0).integers(0, 256, (57, 83, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert torch.equal(prepare(image), DataSpec.from_dict(SPEC).eval_transform()(image))


def test_grey_images(tmp_path):
    spec = SPEC | {"input_size": [1, 32, 32], "mean": [0.3], "std": [0.4]}
    task = task_of("cotnet_micro", spec)
    publish(task, tmp_path / "net")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True)
    assert resolve_model_data_config(loaded)["input_size"] == (1, 32, 32)
    assert 'convert("L")' in (tmp_path / "net" / "README.md").read_text()


@pytest.mark.parametrize("name", ["contextual_convnext_micro", "contextual_resnet50", "cotnet_micro"])
def test_other_heads_keep_the_backbone_with_its_classes(name, tmp_path):
    task = task_of(name)
    publish(task, tmp_path / "net")
    images = torch.randn(2, *SPEC["input_size"])
    source = f"local-dir:{tmp_path / 'net'}"
    without = timm.create_model(source, pretrained=True, num_classes=0).eval()
    pyramid = timm.create_model(source, pretrained=True, features_only=True).eval()
    other = timm.create_model(source, pretrained=True, num_classes=4).eval()
    own = task.model.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        features = own.forward_features(images)
        assert torch.equal(without(images), own.forward_head(features, pre_logits=True))
        assert torch.equal(pyramid(images)[-1], features)
        assert other(images).shape == (2, 4)
    heads = {"fc.weight", "fc.bias", "context.embedding.weight"}
    weights, loaded = own.state_dict(), other.state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights.keys() - heads)


def test_plain_design_gets_another_head(tmp_path):
    plain = lively(timm.create_model("contextual_convnext_micro", num_classes=6, stages=()))
    save_for_hf(plain, tmp_path / "net", safe_serialization=True)
    other = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, num_classes=4)
    assert other.fc.weight.shape[0] == 4
    assert torch.equal(other.stem[0].weight, plain.stem[0].weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_hub_name_loads_from_the_hub_s_files(name, tmp_path, monkeypatch):
    task = task_of(name)
    publish(task, tmp_path / "net", repo="user/flowers")
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options.get("revision")))
        if not (tmp_path / "net" / filename).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        return str(tmp_path / "net" / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    loaded = timm.create_model("hf-hub:user/flowers@v1", pretrained=True).eval()
    images = torch.randn(2, *SPEC["input_size"])
    own = task.model.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        assert torch.equal(loaded(images), own(images))
    assert asked == [("user/flowers", "config.json", "v1"), ("user/flowers", "model.safetensors", "v1")]


@pytest.mark.parametrize("name", NETWORKS)
def test_timm_s_own_push_carries_all_that_is_needed(name, tmp_path, monkeypatch):
    model = lively(timm.create_model(name, num_classes=6, **NETWORKS[name])).eval()
    kept = tmp_path / "hub"

    class Api:
        def __init__(self, **options):
            self.repo_id = None

        def create_repo(self, repo_id, **options):
            return types.SimpleNamespace(repo_id=repo_id)

        def file_exists(self, **options):
            return False

        def upload_folder(self, *, repo_id, folder_path, **options):
            import shutil

            shutil.copytree(folder_path, kept)
            return repo_id

    monkeypatch.setattr("timm.models._hub.HfApi", Api)
    assert push_to_hf_hub(model, "user/net", safe_serialization=True) == "user/net"
    loaded = timm.create_model(f"local-dir:{kept}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    if name.startswith("contextual"):  # the network without a head still has the classes that it was trained with
        model.reset_classifier(0)
        save_for_hf(model, tmp_path / "headless", safe_serialization=True)
        headless = timm.create_model(f"local-dir:{tmp_path / 'headless'}", pretrained=True).eval()
        with torch.inference_mode():
            assert torch.equal(headless(images), model(images))


def test_weights_are_those_that_evaluate_uses(tmp_path, capsys):
    averaged, raw = task_of(), task_of()
    assert not torch.equal(averaged.model.conv1[0].weight, raw.model.conv1[0].weight)
    checkpoint = save(averaged, tmp_path / "a.ckpt", current_model_state=raw.state_dict())
    code, _, _ = run(capsys, checkpoint, tmp_path / "net")
    assert code == 0
    found = safetensors.torch.load_file(tmp_path / "net" / "model.safetensors")
    expected = load_task(checkpoint).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert torch.equal(found["conv1.0.weight"], averaged.model.conv1[0].weight)


def test_trained_network_is_published_as_it_was_validated(tmp_path, capsys):
    words = ["train", "test_resnet", "digits", "--epochs=2", "--ema=0.9", "--device=cpu", "--pictures=false"]
    assert cli.main([*words, "--logger=[csv]", f"--out={tmp_path / 'run'}"]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert run(capsys, checkpoint, tmp_path / "net")[0] == 0
    loaded = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    own = load_task(checkpoint).model.to(memory_format=torch.contiguous_format)
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(images), own(images))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    results = card_of(tmp_path / "net").data.eval_results
    assert [str(r.metric_value) for r in results] == [rows[-1]["val_top1"], rows[-1]["val_top5"]]
    assert "moving average with decay 0.9" in (tmp_path / "net" / "README.md").read_text()
