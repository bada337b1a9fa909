"""`explain` from Python: every family of networks in every task, arrays first, and what the command writes."""

import importlib
import json
import pkgutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ctxvision.explain
import ctxvision.plots
from _checkpoints import NORMAL, detection_task, enliven, segmentation_task, video_task, write_task
from ctxvision.cli import main
from ctxvision.data import BadImageError
from ctxvision.explain import box_cams, explain, grad_cam, pixel_cams
from ctxvision.runs import RunError
from ctxvision.tasks import ClassificationTask

FAMILIES = {
    "cotnet_micro": "kernels",
    "rednet_micro": "kernels",
    "contextual_convnext_micro": "offsets",
    "contextual_resnet50": "offsets",
    "test_resnet": None,  # timm's
    "test_vit2": None,  # a vision transformer: it has no maps but that of its patches
}


def clip():
    """A video of eight frames in memory."""
    return np.random.default_rng(0).integers(0, 255, (8, 40, 48, 3), dtype=np.uint8)


def photo(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (72, 96, 3), dtype=np.uint8))


def classification_task(model, size=64):
    torch.manual_seed(0)
    spec = {"class_names": ["cat", "dog", "emu", "fox"], "input_size": [3, size, size], **NORMAL}
    return enliven(ClassificationTask(model, spec))


def check_layers(image, model):
    """The layers that depend on the image are there, and only they."""
    assert bool(image.offsets) == (FAMILIES[model] == "offsets")
    assert bool(image.kernels) == (FAMILIES[model] == "kernels")
    for layer in image.offsets:
        assert layer.sampled.shape[0] == 1
        assert (layer.sampling_offset > 0).any()
        assert (layer.weight_offset > 0).all()
    assert len(image.entry.get("bends", [])) == len(image.offsets)
    assert len(image.entry.get("kernels", [])) == len(image.kernels)


@pytest.mark.parametrize("model", FAMILIES)
def test_classifiers(model):
    task = classification_task(model, 160 if model == "test_vit2" else 64)
    explanation = explain(task, photo(), truth="dog")
    (image,) = explanation.images
    check_layers(image, model)
    (cam,) = image.cams
    assert cam.map.shape == cam.in_place.shape == tuple(task.data_spec["input_size"][1:])
    if model == "test_vit2":
        assert cam.layer.name == "patch_embed"  # the only map of a transformer
    assert (image.funnel is not None) == model.startswith("contextual")
    assert (explanation.sections["embeddings"] is not None) == model.startswith("contextual")


@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "test_vit2"])
def test_detectors(model):
    task = detection_task("faster_rcnn", model)
    image, picture = explain(task, photo(), threshold=0.0).images[0], photo()
    check_layers(image, model)
    assert len(image.cams) == 3
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    (again,) = box_cams(task.model, pixels, image.cams[0].box[None], [image.cams[0].label])
    np.testing.assert_allclose(again.cam.map, image.cams[0].cam.map, atol=1e-4)


@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "test_vit2"])
def test_segmentation_networks(model):
    task = segmentation_task(model)
    image = explain(task, photo()).images[0]
    check_layers(image, model)
    view = (torch.from_numpy(np.array(photo())).permute(2, 0, 1) / 255 - 0.5) / 0.25
    for cam in image.cams:
        assert cam.mask.any()
        (again,) = pixel_cams(task.model, view, [cam.cam.target])
        np.testing.assert_allclose(again.cam.map, cam.cam.map, atol=1e-4)


@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "test_vit2"])
def test_video_networks(model):
    task = video_task(model, size=64)
    image = explain(task, clip(), class_name="class 1").images[0]
    check_layers(image, model)
    (cams,) = image.cams
    assert cams.target == 1
    assert cams.maps.shape == (4, 64, 64)
    assert len(image.entry["grad_cam"]["frames"]) == 4


@pytest.mark.slow
def test_python_says_what_the_command_writes(tmp_path):
    task, other = classification_task("contextual_convnext_micro"), classification_task("test_resnet")
    first, second = write_task(task, tmp_path / "a.ckpt"), write_task(other, tmp_path / "b.ckpt")
    (tmp_path / "cat").mkdir()
    photo().save(tmp_path / "cat" / "a.png")
    (tmp_path / "bad.png").write_bytes(b"hello")
    images = [str(tmp_path / "cat" / "a.png"), str(tmp_path / "bad.png")]
    out = tmp_path / "out"
    assert main(["explain", str(first), *images, "--out", str(out), "--against", str(second)]) == 0
    explanation = explain(task, images, against=other, network_name=str(first), against_name=str(second))
    written, said = json.loads((out / "explain.json").read_text()), explanation.numbers
    assert json.loads(json.dumps(said)) == written
    for name, content in explanation.files().items():
        if name.startswith("figures/"):
            assert (out / name).read_bytes() == content
    (image,) = explanation.images
    (cam,) = grad_cam(task.model, task_input(task), [task.data_spec["class_names"].index(image.entry["answer"])])
    np.testing.assert_allclose(image.cams[0].raw, cam.raw, rtol=1e-3, atol=1e-6)


def task_input(task):
    from ctxvision.data import DataSpec

    return DataSpec.from_dict(task.data_spec).eval_transform()(photo())[None]


def test_figures_are_drawn_when_they_are_wanted(monkeypatch):
    drawn = []
    image = explain(classification_task("rednet_micro"), photo()).images[0]
    image.drawings = [lambda draw=draw: drawn.append(draw) or draw() for draw in image.drawings]
    assert not drawn
    assert image.figures is image.figures
    assert len(drawn) == len(image.drawings) > 1
    bundle = image.figures[0]._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")


def test_networks_stay_as_they_were():
    task = classification_task("cotnet_micro").train()
    task.model.layer1.eval()
    modes = [module.training for module in task.modules()]
    explain(task, photo())
    assert [module.training for module in task.modules()] == modes


def test_what_cannot_be_explained_is_said(tmp_path):
    task = classification_task("test_resnet")
    with pytest.raises(ValueError, match="no class 'zebra'; the network's classes are cat, dog"):
        explain(task, photo(), class_name="zebra")
    with pytest.raises(ValueError, match="no class funnel to follow"):
        explain(task, photo(), data=[])
    with pytest.raises(RunError, match="its task is video, not classification"):
        explain(task, photo(), against=video_task())
    with pytest.raises(RunError, match=r"model\.onnx: is not the checkpoint of a training"):
        explain(types.SimpleNamespace(module=None), photo(), network_name="model.onnx")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"hello")
    assert explain(task, bad).bad_images == [{"path": str(bad), "reason": "not an image"}]
    with pytest.raises(BadImageError):
        explain(task, bad, strict=True)


@pytest.mark.parametrize("package", [ctxvision.explain, ctxvision.plots])
def test_no_function_hides_a_module(package):
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    assert len(names) > 5
    for name in names:
        assert importlib.import_module(f"{package.__name__}.{name}") is getattr(package, name)
        assert Path(getattr(package, name).__file__).stem in (name, "__init__")
