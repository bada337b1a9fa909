"""``ctxvision publish`` and timm's own functions: what is loaded computes what was trained, and says so."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import push_to_hf_hub, save_for_hf

import ctxvision
from ctxvision import cli
from ctxvision.data import DataSpec
from ctxvision.models import count_macs
from ctxvision.publish import (
    Provenance,
    PublishError,
    Score,
    check_upload,
    publish,
    read_provenance,
    read_scores,
    upload,
)
from ctxvision.publish import folder as folder_module
from ctxvision.publish.citations import bibtex, family_of
from ctxvision.tasks import ClassificationTask, load_task
from ctxvision.tasks.checkpoint_file import save_checkpoint

ROOT = Path(__file__).parents[2]
# one of each family, with what its constructor can be told
NETWORKS = {
    "cotnet_micro": {},
    "se_cotnetd50": {"depths": (1, 1, 2, 1)},
    "rednet_micro": {},
    "contextual_convnext_micro": {"class_ratios": (1, 0.6, 0.4, 0.3), "selection": "rerank", "dim": 32},
    "contextual_resnet50": {"depths": (1, 1, 1, 1), "planes": (8, 16, 16, 16), "stages": (3, 4)},
    "test_resnet": {},
}
SPEC = {
    "class_names": ["cat", "dog", "a | `b`\n<c>", "été", "e", "f"],
    "input_size": [3, 40, 40],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bilinear",
    "crop_pct": 0.8,
}
KEY = "ghp_not_a_token"


def lively(model):
    """Fill what starts at zero and would hide what lies behind it, and buffers too."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.05 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model


def task_of(name="rednet_micro", spec=SPEC, **options):
    task = ClassificationTask(name, spec, model_args=NETWORKS.get(name), **options)
    lively(task.model)
    return task.eval()


def save(task, path, *, epoch=2, step=66, **more):
    """Write a checkpoint as the training does."""
    mark = {"task": task.kind, "version": ctxvision.__version__}
    contents = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams), "ctxvision": mark}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({"epoch": epoch, "global_step": step, **contents, **more}, path)
    return path


@pytest.fixture
def run_folder(tmp_path):
    """A run as `ctxvision train` leaves it: checkpoint, settings, metrics."""
    folder = tmp_path / "run"
    save(task_of(), folder / "checkpoints" / "best.ckpt")
    settings = {
        "model": "rednet_micro", "data": "/home/somebody/secret/flowers", "out": "/home/somebody/runs/1",
        "epochs": 5, "lr": 0.002, "ema": 0.999, "recipe": "/home/somebody/mine.yaml",
        "init_from": "resnet50.a1_in1k", "model_args": None, "workers": 3, "logger": ["wandb"],
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rows = "1,22,1,0.5,0.6\n2,44,1,,\n3,66,1,0.75,0.875\n4,88,1,0.9,1\n"
    (folder / "metrics.csv").write_text("epoch,step,val_loss,val_top1,val_top5\n" + rows)
    return folder


def run(capsys, *words):
    code = cli.main(["publish", *map(str, words)])
    return code, *capsys.readouterr()


def card_of(folder):
    return huggingface_hub.ModelCard.load(folder / "README.md")


# what timm loads ----------------------------------------------------------------------------------


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
    words = ["train", "test_resnet", "digits", "--epochs=2", "--ema=0.9", "--accelerator=cpu", "--pictures=false"]
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


# what is told -------------------------------------------------------------------------------------


def test_card_of_a_run_is_complete_and_tells_no_secrets(run_folder, tmp_path, capsys):
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    code, out, err = run(capsys, checkpoint, tmp_path / "flowers-net", "--license", "cc-by-4.0")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("top-1 accuracy 75.00%")
    folder = tmp_path / "flowers-net"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "training.yaml",
    ]  # fmt: skip
    card = card_of(folder)
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "timm")
    assert {"ctxvision", "timm", "rednet"} <= set(card.data.tags)
    assert [(r.metric_type, r.metric_value, r.dataset_name) for r in card.data.eval_results] == [
        ("accuracy", 0.75, "flowers"), ("top_5_accuracy", 0.875, "flowers"),
    ]  # fmt: skip
    assert "moving average with decay 0.999" in card.text
    assert "after epoch 3" in card.text
    assert "`mine.yaml`" in card.text
    assert "resnet50.a1_in1k" in card.text
    assert bibtex("rednet_micro") in card.text
    assert yaml.safe_load((folder / "training.yaml").read_text()) == {
        "model": "rednet_micro", "epochs": 5, "lr": 0.002, "ema": 0.999,
    }  # fmt: skip
    for name in ("README.md", "config.json", "training.yaml"):
        text = (folder / name).read_text()
        assert "somebody" not in text
        assert "secret" not in text


def test_front_matter_survives_the_hub_s_round_trip(tmp_path):
    scores = [Score("top-1 accuracy", 0.5, "validation", "ctxvision evaluate", 10, (0.2, 0.8), "a: 'b' #c")]
    publish(task_of(), tmp_path / "net", scores=scores, name="on: [off]", license="mit")
    data = card_of(tmp_path / "net").data
    again = huggingface_hub.ModelCardData(**{**data.to_dict(), "ignore_metadata_errors": False})
    assert data.model_name == "on: [off]"
    assert data.eval_results[0].dataset_name == "a: 'b' #c"
    assert re.fullmatch(r"[\w.-]+", data.eval_results[0].dataset_type)
    assert again.to_dict() == data.to_dict()


def test_names_of_classes_do_not_break_the_card(tmp_path):
    publish(task_of(), tmp_path / "net")
    text = (tmp_path / "net" / "README.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| classes")]
    assert line.count("|") == 3
    assert "<c>" not in text
    assert json.loads((tmp_path / "net" / "config.json").read_text())["label_names"] == SPEC["class_names"]


def test_nothing_is_invented_for_a_checkpoint_alone(tmp_path, capsys):
    checkpoint = save(task_of(), tmp_path / "elsewhere" / "some.ckpt")
    code, _, err = run(capsys, checkpoint, tmp_path / "net")
    assert code == 0
    assert "states no licence" in err
    assert "no accuracy" in err
    card = card_of(tmp_path / "net")
    assert card.data.eval_results is None
    assert card.data.license is None
    assert "No accuracy was recorded" in card.text
    assert "not stated a licence" in card.text
    assert "%" not in re.sub(r"\d+(\.\d+)?% of the shorter side", "", card.text)
    assert "license" not in json.loads((tmp_path / "net" / "config.json").read_text())["pretrained_cfg"]
    assert not (tmp_path / "net" / "training.yaml").exists()


@pytest.mark.parametrize(("epoch", "step"), [(2, 60), (5, 110), (1, 44)])
def test_metrics_of_other_weights_are_left_out(epoch, step, run_folder):
    checkpoint = save(task_of(), run_folder / "checkpoints" / "last.ckpt", epoch=epoch, step=step)
    assert read_provenance(checkpoint).scores == ()


def test_data_set_from_the_hub_is_linked(run_folder, tmp_path):
    (run_folder / "config.yaml").write_text("model: rednet_micro\ndata: hf:user/flowers:small?label=kind\n")
    provenance = read_provenance(run_folder / "checkpoints" / "best.ckpt")
    publish(task_of(), tmp_path / "net", provenance=provenance)
    data = card_of(tmp_path / "net").data
    assert data.datasets == ["user/flowers"]
    assert data.eval_results[0].dataset_type == "user/flowers"


@pytest.fixture
def evaluation(tmp_path):
    """A checkpoint for the digits, and what `ctxvision evaluate` says about it."""
    from ctxvision.data import DigitsData

    checkpoint = save(task_of(spec=DigitsData().spec.to_dict()), tmp_path / "digits.ckpt")
    path = tmp_path / "eval.json"
    assert cli.main(["evaluate", str(checkpoint), "digits", "--json", str(path), "--accelerator", "cpu"]) == 0
    return checkpoint, path


def test_figures_of_evaluate_go_into_the_card(evaluation, tmp_path, capsys):
    checkpoint, path = evaluation
    numbers = json.loads(path.read_text())
    code, _, _ = run(capsys, checkpoint, tmp_path / "net", "--metrics", path)
    assert code == 0
    results = card_of(tmp_path / "net").data.eval_results
    assert [(r.metric_value, r.dataset_split) for r in results] == [
        (round(numbers["top1"], 6), "validation"), (round(numbers["top5"], 6), "validation"),
    ]  # fmt: skip
    text = (tmp_path / "net" / "README.md").read_text()
    low, high = numbers["top1_interval95"]
    assert f"{low:.2%} to {high:.2%}" in text
    assert f"| {numbers['images']:,} |" in text


def test_figures_of_something_else_are_refused(evaluation, tmp_path):
    checkpoint, path = evaluation
    task, numbers = load_task(checkpoint), json.loads(path.read_text())
    other = save(task, tmp_path / "other.ckpt")
    with pytest.raises(PublishError, match=r"is about .*digits\.ckpt, not about .*other\.ckpt"):
        read_scores(path, task, str(other))
    for change in ({"parameters": 1}, {"model": "cotnet_micro"}, {"classes": []}):
        path.write_text(json.dumps(numbers | change))
        with pytest.raises(PublishError, match="is about"):
            read_scores(path, task, str(checkpoint))
    for text in ("{", "[]", "{}", json.dumps(numbers | {"top1": 75}), json.dumps(numbers | {"top1": math.nan})):
        path.write_text(text)
        with pytest.raises(PublishError, match="not a JSON file of `ctxvision evaluate`"):
            read_scores(path, task, str(checkpoint))
    with pytest.raises(PublishError, match=r"gone\.json: cannot be read"):
        read_scores(tmp_path / "gone.json", task, str(checkpoint))


def test_citations_are_those_of_the_citation_file():
    papers = {paper["title"]: paper for paper in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]}
    for name in ("cotnet50", "rednet50", "contextual_resnet50"):
        entry = " ".join(bibtex(name).split())
        paper = papers.pop(re.search(r" title = \{(.*?)\},", entry)[1])
        authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
        assert f"author = {{{authors}}}" in entry
        assert f"year = {{{paper['year']}}}" in entry
    assert not papers
    assert (family_of("resnet50"), bibtex("resnet50")) == (None, None)


# what goes wrong ----------------------------------------------------------------------------------


def test_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    task = task_of()
    publish(task, tmp_path / "net", license="mit")
    before = {p.name: p.read_bytes() for p in (tmp_path / "net").iterdir()}
    other = task_of().model
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: other)
    for target in ("net", "new"):
        with pytest.raises(PublishError, match="its logits differ"):
            publish(task, tmp_path / target, overwrite=True)

    def fail(path, data):
        raise OSError(28, "No space left")

    monkeypatch.setattr(folder_module, "_write", fail)
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


class Url(str):
    """An address as the hub's client returns it."""

    def __new__(cls, repo_id):
        url = super().__new__(cls, f"https://hub.example/{repo_id}")
        url.repo_id = repo_id
        return url


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
        from ctxvision.tasks.detection import DetectionTask

        from_spec = {"class_names": ["a"], "min_size": 64, "max_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
        task = DetectionTask("rednet_micro", from_spec)
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


# the hub ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """The hub's client, replaced: what it is asked, and what it answers."""
    state = types.SimpleNamespace(calls=[], has_card=False, error=None)

    class Api:
        def __init__(self, **options):
            state.calls.append(("HfApi", options))

        def create_repo(self, repo, **options):
            state.calls.append(("create_repo", repo, options))
            if state.error:
                raise state.error
            return Url(repo)

        def file_exists(self, repo, filename):
            assert filename == "README.md"
            return state.has_card

        def upload_folder(self, **options):
            state.calls.append(("upload_folder", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: KEY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return state


def test_push_uploads_the_folder_in_one_commit(hub, tmp_path, capsys):
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    words = (checkpoint, tmp_path / "net", "--push", "user/flowers", "--private", "--license", "mit")
    code, out, err = run(capsys, *words)
    assert code == 0
    assert out.splitlines()[-1] == "https://hub.example/user/flowers"
    assert KEY not in out + err
    assert hub.calls[1] == ("create_repo", "user/flowers", {"private": True, "exist_ok": True})
    (name, options), *more = hub.calls[2:]
    assert (name, more) == ("upload_folder", [])
    assert options["folder_path"] == tmp_path / "net"
    assert options["ignore_patterns"] is None
    assert 'create_model("hf-hub:user/flowers", pretrained=True)' in (tmp_path / "net" / "README.md").read_text()


def test_card_that_is_on_the_hub_stays(hub, tmp_path):
    hub.has_card = True
    upload(tmp_path, "user/flowers")
    assert hub.calls[-1][1]["ignore_patterns"] == ["README.md"]


def refusal(status):
    response = types.SimpleNamespace(status_code=status, headers={}, request=None)
    error = huggingface_hub.errors.HfHubHTTPError.__new__(huggingface_hub.errors.HfHubHTTPError)
    Exception.__init__(error, f"{status} Client Error\nlong story")
    error.response = response
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(401), "does not accept the token"),
        (refusal(403), "may not write there"),
        (refusal(429), "asks to wait"),
        (refusal(409), r"the hub refused \(409 Client Error\)"),
        (ConnectionError("no route"), "the hub cannot be reached"),
        (TimeoutError(), "the hub cannot be reached"),
        (type("ConnectError", (Exception,), {})("dns"), "the hub cannot be reached"),
    ],
)
def test_hub_that_refuses_is_one_line_and_the_folder_stays(hub, error, message, tmp_path, capsys):
    hub.error = error
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    code, _, err = run(capsys, checkpoint, tmp_path / "net", "--push", "user/flowers", "--license", "mit")
    assert code == 1
    last = err.splitlines()[-1]
    assert re.search(rf"user/flowers: .*{message}", last)
    assert "is complete, try again" in last
    assert (tmp_path / "net" / "config.json").is_file()


def test_upload_is_refused_before_the_work_where_it_cannot_succeed(hub, tmp_path, capsys, monkeypatch):
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    code, _, err = run(capsys, checkpoint, tmp_path / "net", "--push", "user/flowers")
    assert code == 1
    assert "there is no token of the hub" in err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        check_upload("user/flowers")
    assert not hub.calls
    assert os.listdir(tmp_path) == ["a.ckpt"]
