"""Trained networks of every task that are prepared for speed: the same answers, the trained network untouched."""

import copy
import threading

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.utils import weight_norm

from _checkpoints import detection_task, segmentation_task, video_task, write_classifier
from _networks import lively
from ctxvision.inference import InferenceError, open_predictor, optimize, optimizing, predictor_of, preparing
from ctxvision.tasks import ClassificationTask

MICRO = ("cotnet_micro", "rednet_micro", "contextual_convnext_micro")
DETECTORS = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet")
SPEC = {"class_names": ["a", "b", "c"], "input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3}


def classification_task(name):
    torch.manual_seed(0)
    task = ClassificationTask(name, SPEC)
    task.model.load_state_dict(lively(name, num_classes=3).state_dict())
    task.train()(torch.randn(8, 3, 64, 64))  # statistics of norms that are not those of the start
    return task.eval()


def tasks():
    yield from (pytest.param(lambda name=name: classification_task(name), id=name) for name in MICRO)
    for detector in DETECTORS:
        norm = "frozen" if detector == "retinanet" else "eval"
        yield pytest.param(
            lambda detector=detector, norm=norm: detection_task(detector, "rednet_micro", norm=norm), id=detector
        )
    for decoder in ("semantic_fpn", "upernet"):
        yield pytest.param(lambda decoder=decoder: segmentation_task("cotnet_micro", decoder=decoder), id=decoder)
    for shift in ("both", "past", "none"):
        yield pytest.param(lambda shift=shift: video_task("rednet_micro", size=64, shift=shift), id=f"tsm-{shift}")


def batch_for(task, dtype):
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "classification": (2, 3, 64, 64),
        "detection": (1, 3, 80, 96),
        "segmentation": (1, 3, 64, 96),
        "video": (2, 6, 3, 64, 64),  # clips of another length than those of the training
    }
    return torch.rand(shapes[task.kind], generator=generator).to(dtype)


def leaves(found):
    """The numbers of an answer; of detections the boxes and scores, whose masks may lie on a threshold."""
    if isinstance(found, torch.Tensor):
        return [found]
    return [one[name] for one in found for name in ("boxes", "scores")] if isinstance(found[0], dict) else found


@pytest.mark.parametrize("make", list(tasks()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_answers_are_the_same_and_the_network_is_left_alone(make, dtype):
    task = make()
    task = task.to(dtype)
    weights, modules = copy.deepcopy(task.state_dict()), list(task.modules())
    plain, fused = (predictor_of(task, optimize=how) for how in ("none", "fuse"))
    batch = batch_for(task, dtype)
    expected, found = leaves(plain.raw(batch)), leaves(fused.raw(batch))
    if dtype == torch.bfloat16 and task.kind == "detection":  # rounding moves scores across thresholds
        pyramids = (p.computing(1).model.network.backbone(batch) for p in (plain, fused))
        expected, found = (list(pyramid.values()) for pyramid in pyramids)
    has_norms = "convnext" not in task.model_name
    assert fused.prepared.startswith("BatchNorm folded into ") == has_norms
    assert plain.prepared == ""
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 6e-2}[dtype]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)
    assert list(map(id, task.modules())) == list(map(id, modules))
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in weights.items())
    if task.kind == "video":  # the copy's frames are its own
        assert task.shifts.frames == 6
        torch.testing.assert_close(fused.raw(batch[:, :4]), plain.raw(batch[:, :4]), rtol=1e-1, atol=1e-1)


def test_it_is_prepared_when_it_pays(monkeypatch):
    task = classification_task("rednet_micro")
    images = torch.randn(8, 3, 64, 64)
    predictor = predictor_of(task, optimize="auto")
    monkeypatch.setattr(predictor._ready, "_pays_from", 24)
    for _ in range(2):
        predictor.raw(images)
        assert predictor.computing(0) is task
        assert predictor.prepared == ""
    predictor.raw(images)
    assert predictor.prepared == "BatchNorm folded into 22 layers"
    assert predictor.computing(1) is not task
    expected = predictor_of(task, optimize="auto")
    expected.expect(64)
    expected.raw(images[:1])
    assert expected.prepared


def test_a_wrong_copy_does_not_answer(monkeypatch, caplog):
    def wrong(model, example):
        broken = copy.deepcopy(model)
        next(p for n, p in broken.named_parameters() if n.endswith("fc.weight")).data.mul_(1.01)
        for name, module in list(broken.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                broken.set_submodule(name, nn.Identity())
                break
        return broken

    monkeypatch.setattr(optimizing, "fuse", wrong)
    task = classification_task("cotnet_micro")
    predictor = predictor_of(task, optimize="fuse")
    predictor.raw(torch.randn(1, 3, 64, 64))
    assert predictor.computing(1) is task
    assert "the network answers as it is" in caplog.text


def test_without_a_compiler_it_computes_as_it_is(monkeypatch, caplog):
    def compile_nothing(function, **options):
        def call(images):
            function(images)  # traces, which fails where the network does
            raise RuntimeError("no C++ compiler\nhere")

        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    task = classification_task("rednet_micro")
    images = torch.randn(2, 3, 64, 64)
    predictor = predictor_of(task, optimize="compile")
    with pytest.raises(RuntimeError, match="channels"):
        predictor.raw(images[:, :1])
    assert not caplog.text
    assert predictor.prepared.endswith(", compiled")
    found = [predictor.raw(images) for _ in range(2)]
    assert caplog.text.count("cannot be compiled here (no C++ compiler); it computes as it is") == 1
    assert predictor.prepared == "BatchNorm folded into 22 layers"  # and not compiled
    for one in found:
        torch.testing.assert_close(one, predictor_of(task).raw(images), rtol=1e-3, atol=1e-3)


def test_published_networks_and_other_words(tmp_path):
    write_classifier(tmp_path / "best.ckpt", "rednet_micro", 64)
    with pytest.raises(InferenceError, match="optimize must be one of auto, none, fuse, compile, got 'fast'"):
        open_predictor(tmp_path / "best.ckpt", optimize="fast")
    network = timm.create_model("rednet_micro", num_classes=3)
    before = preparing.Preparation(network.eval(), "", torch.zeros(1, 3, 64, 64), "fuse", 1)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(before(2)(images), network(images), rtol=1e-3, atol=1e-4)
    assert before.done == "BatchNorm folded into 22 layers, channels_last"
    assert next(p for p in network.parameters() if p.dim() == 4).is_contiguous()


def test_fixed_norms_are_folded_by_both_roads_and_what_cannot_be_copied_answers(caplog):
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()]
    network, images = freeze_batch_norm_2d(nn.Sequential(*layers).eval()), torch.randn(2, 3, 8, 8)
    assert optimize(network, images).description.startswith("BatchNorm folded into 1 layer, ")
    assert not optimize(nn.Sequential(layers[0], layers[2]), images).description.startswith("BatchNorm")
    before = preparing.Preparation(network, "", images[:1], "fuse", 1)
    assert before(1) is not network
    assert before.done.startswith("BatchNorm folded into 1 layer")
    network.add_module("3", weight_norm(nn.Linear(256, 2)))
    network(images)
    assert preparing.Preparation(network, "", images[:1], "fuse", 1)(1) is network
    assert "cannot be copied to be prepared" in caplog.text
    locked = nn.Sequential(*layers)
    locked.lock = threading.Lock()
    assert preparing.Preparation(locked, "", images[:1], "fuse", 1)(1) is locked


def test_a_trial_of_the_memory_formats_is_for_many_images(monkeypatch):
    tried = []
    monkeypatch.setattr(preparing, "faster_layout", lambda network, example: tried.append(example) or "nchw")
    task = classification_task("rednet_micro")
    for samples, trials in ((999, 0), (1000, 1)):
        predictor = predictor_of(task, optimize="auto")
        predictor.expect(samples)
        predictor.raw(torch.randn(1, 3, 64, 64))
        assert len(tried) == trials
    assert predictor.prepared.endswith("layers, nchw")
    assert predictor.computing(1).memory_format == torch.contiguous_format
    assert task.memory_format == torch.channels_last
    assert optimizing.TOLERANCE  # one table for both roads


def test_compiled_networks_keep_their_stages_and_translate_once(monkeypatch):
    made = []

    def compile_network(function, **options):
        made.append((function.__name__, options))
        return function

    monkeypatch.setattr(torch, "compile", compile_network)
    task = classification_task("contextual_convnext_micro")
    predictor = predictor_of(task, optimize="compile")
    images = torch.randn(3, 3, 64, 64)
    for count in (3, 2, 1, 3):
        torch.testing.assert_close(predictor.raw(images[:count]), task(images[:count]), rtol=1e-3, atol=1e-4)
    assert predictor.prepared == "compiled"
    found, expected = predictor.computing(3).outputs(images), task.outputs(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-4)
    assert [name for name, _ in made] == ["forward", "forward_stages"]  # not once more for a single image
    assert made[0][1] == {"dynamic": None, "options": {"freezing": True}}


def test_an_evaluation_is_of_the_prepared_network(monkeypatch):
    from ctxvision.data import DigitsData
    from ctxvision.evaluation import evaluate

    names = [str(digit) for digit in range(10)]
    torch.manual_seed(0)
    task = ClassificationTask("rednet_micro", SPEC | {"class_names": names, "input_size": [1, 32, 32],
                                                      "mean": [0.5], "std": [0.25]})  # fmt: skip
    data = DigitsData(spec=task.spec, batch_size=128)
    plain, prepared = predictor_of(task), predictor_of(task, optimize="auto")
    expected, found = (evaluate(predictor, data, examples=2).numbers for predictor in (plain, prepared))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert found["parameters"] == expected["parameters"]
    assert prepared.prepared.startswith("BatchNorm folded into ")
    assert not plain.prepared


def test_it_is_folded_under_autocast_too(caplog):
    task = classification_task("rednet_micro")
    predictor = predictor_of(task, optimize="fuse")
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = predictor.raw(images), task(images).float()
    assert predictor.prepared
    assert not caplog.text
    torch.testing.assert_close(found, expected, rtol=6e-2, atol=6e-2 * float(expected.detach().abs().max()))
