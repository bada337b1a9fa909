"""ultralytics 8.4: YAMLs that name our layers and backbones, replaced convolutions in training, fuse()."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves

from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d, replace_convs

OURS = (CoTLayer, Involution2d, ContextualConv2d)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def count(model):
    return sum(isinstance(module, OURS) for module in model.modules())


def lively(model):
    """Let offsets bend, and norms do something."""
    for module in model.modules():
        if isinstance(module, ContextualConv2d):
            for parameter in module.parameters():
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return model.eval()


def outputs(model):
    with torch.inference_mode():
        return [leaf for leaf in tree_leaves(model(IMAGES)) if isinstance(leaf, torch.Tensor)]


@pytest.fixture
def integration():
    import ctxvision.integrations.ultralytics as module

    return module


@pytest.fixture
def data(tmp_path):
    """Six pictures with a box each."""
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(6):
        pixels = noise.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{number}.png")
        (tmp_path / "data" / "labels" / f"{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    about = {"path": str(tmp_path / "data"), "train": "images", "val": "images", "names": ["a", "b"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(about))
    return {
        "data": str(tmp_path / "data.yaml"), "epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "device": "cpu",
        "project": str(tmp_path / "runs"), "plots": False, "amp": False, "mosaic": 0, "verbose": False,
    }  # fmt: skip


@pytest.mark.parametrize("scale", ["n", "s"])
@pytest.mark.parametrize("row", ["CoTLayer", "Involution2d", "ContextualConv2d"])
def test_yaml_row_scales_channels_as_conv_does(integration, row, scale):
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    plain = yaml_model_load(f"yolo11{scale}.yaml")
    ours = copy.deepcopy(plain)
    for index in (3, 5, 7):
        assert ours["backbone"][index][2] == "Conv"
        ours["backbone"][index][2] = row
    ours["backbone"].insert(9, [-1, 4, row, [1024]])  # twice at depth 0.5, with the layer's own kernel size
    ours["head"] = [[[-1], 1, "Detect", ["nc"]]]
    plain["head"] = [[[-1], 1, "Detect", ["nc"]]]
    expected, model = DetectionModel(plain, verbose=False), DetectionModel(ours, verbose=False)
    assert count(model) == 5
    assert torch.equal(model.stride, expected.stride)
    for index in (3, 5, 7):
        x = torch.randn(2, expected.model[index].conv.in_channels, 16, 16)
        assert model.model[index].eval()(x).shape == expected.model[index].eval()(x).shape


def test_options_of_a_row_and_what_it_refuses(integration):
    from ultralytics.nn import tasks

    def parse(row):
        return tasks.parse_model({"backbone": [row], "head": []}, ch=32, verbose=False)[0][0]

    layer = parse([-1, 1, "Involution2d", [64, 5, 2, {"group_channels": 8}]])
    assert layer.conv.involution.groups == 8
    assert parse([-1, 1, "ContextualConv2d", [32, 3, 1, None, 32, {"modulation": True}]]).conv.groups == 32
    assert isinstance(parse([-1, 1, "CoTLayer", [32, 3, 1, None, 1, 2]]).conv, CoTLayer)
    with pytest.raises(ValueError, match=r"cot in place of Conv\(32, 32, 4\): its kernel of 4x4 is even"):
        parse([-1, 1, "CoTLayer", [32, 4]])


@pytest.mark.parametrize("network", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def test_backbone_in_a_yaml(integration, network):
    import timm
    from ultralytics.nn.tasks import DetectionModel

    levels = timm.create_model(network, features_only=True).feature_info
    rows = [[-1, 1, "TimmBackbone", [levels.channels()[-1], network]]]
    picked = [index for index, stride in enumerate(levels.reduction()) if stride >= 8]
    rows += [[0, 1, "Index", [levels.channels()[index], index]] for index in picked]
    about = {"nc": 2, "backbone": rows, "head": [[[1, 2, 3], 1, "Detect", ["nc"]]]}
    model = DetectionModel(about, verbose=False)
    assert model.stride.tolist() == [8, 16, 32]
    found = model.train()(IMAGES)
    sum(leaf.square().mean() for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.model[0].parameters())


def test_yaml_of_the_page_trains_and_opens_again(integration, data, tmp_path):
    from ultralytics import YOLO

    text = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "yolo11n-context.yaml").write_text(text)
    model = YOLO(tmp_path / "yolo11n-context.yaml")
    assert count(model.model) == 3
    model.train(**data)
    again = YOLO(model.trainer.last)
    assert count(again.model) == 3
    assert again.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)


@pytest.mark.parametrize("kind", ["cot", "involution", "contextual"])
@pytest.mark.parametrize("network", ["yolo11n.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo26n.yaml"])
def test_fuse_gives_equal_outputs(integration, kind, network):
    """YOLOv9 and v10 merge parallel convolutions as well."""
    from ultralytics import YOLO

    model = YOLO(network, verbose=False).model
    replace_convs(model, kind, **({"groups": 1} if kind == "cot" else {}))
    lively(model)
    assert count(model) > 30
    expected = outputs(model)
    fused = copy.deepcopy(model).fuse(verbose=False)
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model, fused)]
    assert norms[1] < norms[0]
    found = outputs(fused)
    assert torch.allclose(found[0], expected[0], rtol=1e-4, atol=1e-4 * expected[0].abs().max().item())


@pytest.mark.parametrize("kind", ["cot", "involution", "contextual"])
def test_fuse_without_the_import(kind):
    """The layers themselves take what ultralytics folds into them."""
    from ultralytics.nn import tasks

    model = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    lively(replace_convs(model, kind, where=["model.5.conv", "model.7.conv"]))
    expected = outputs(model)[0]
    plain = getattr(tasks.BaseModel.fuse, "__wrapped__", tasks.BaseModel.fuse)  # of the test before
    found = outputs(plain(copy.deepcopy(model), verbose=False))[0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["cot", "involution", "contextual"])
def test_replaced_layers_outlast_training(integration, kind, data):
    from ultralytics import YOLO

    places = ["model.5.conv", "model.7.conv"]
    model = YOLO("yolo11n.yaml", verbose=False)
    replace_convs(model.model, kind, where=places)
    before = {key: value.clone() for key, value in model.model.state_dict().items() if key.startswith("model.7.")}
    model.add_callback("on_pretrain_routine_start", integration.KeepReplacements(model.model))
    seen = {}
    model.add_callback(
        "on_pretrain_routine_end",
        lambda trainer: seen.update({k: v.clone() for k, v in trainer.model.state_dict().items() if k in before}),
    )
    model.train(**data)  # ends with a validation of the fused network
    assert count(model.trainer.model) == count(model.model) == 2
    assert seen.keys() == before.keys()
    assert all(torch.equal(seen[key], before[key]) for key in before), "the layers start from their own weights"

    again = YOLO(model.trainer.last)
    again.add_callback("on_pretrain_routine_start", integration.KeepReplacements(again.model))
    again.train(**data)
    assert count(again.model) == 2


def test_without_the_callback_training_undoes_it(data):
    """What the page warns of; if this fails, the callback can go."""
    from ultralytics import YOLO

    model = YOLO("yolo11n.yaml", verbose=False)
    replace_convs(model.model, "involution", where=["model.7.conv"])
    model.train(**data)
    assert count(model.model) == 0


def test_callback_refuses_a_network_without_our_layers(integration):
    with pytest.raises(ValueError, match="call replace_convs first"):
        integration.KeepReplacements(nn.Conv2d(3, 3, 3))


@pytest.mark.parametrize("kind", ["cot", "involution", "contextual"])
@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_export_after_replacement(integration, kind, form, tmp_path, monkeypatch):
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    model = YOLO("yolo11n.yaml", verbose=False)
    lively(replace_convs(model.model, kind, where=["model.5.conv", "model.7.conv"]))
    expected = outputs(model.model)[0][:1]
    path = model.export(format=form, imgsz=64, device="cpu")
    one = IMAGES[:1]
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: one.numpy()})[0])
    else:
        found = torch.jit.load(path)(one)
        found = found[0] if isinstance(found, (list, tuple)) else found
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
