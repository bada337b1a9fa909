"""Single images in training, whose pooled features no batch norm can normalise."""

import pytest
import torch
from torch import nn

from ctxvision.cli import main
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.networks import single_value_norms
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

SPEC = {"class_names": ["a", "b", "c"], "input_size": [3, 32, 32], "mean": [0.0] * 3, "std": [1.0] * 3}
BOXES = {"class_names": ["a"], "category_ids": [1], "in_chans": 3}
NARROW = {"channels": 16, "pyramid_channels": 16}
SE = {"depths": [1, 1, 1, 1], "planes": [32, 32, 32, 32]}
DETECTOR = {
    "width": 16, "hidden": 32, "min_size": 64, "max_size": 64, "anchor_sizes": [8, 16, 32, 64, 96],
    "train_proposals": 20, "sampled_rois": 8, "norm": "batch",
}  # fmt: skip


def classes(images, size=32):
    return torch.randn(images, 3, size, size), torch.arange(images) % 3


def pixels(images):
    return torch.randn(images, 3, 32, 32), torch.randint(0, 3, (images, 32, 32))


def boxes(images):
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    return [torch.rand(3, 64, 64) for _ in range(images)], [target] * images


CASES = {
    "cotnet": (lambda: ClassificationTask("cotnet_micro", SPEC), classes),
    "split attention": (lambda: ClassificationTask("se_cotnetd50", SPEC, model_args=SE), classes),
    "last stage of one pixel": (lambda: ClassificationTask("resnet10t", SPEC), classes),
    "mixup": (lambda: ClassificationTask("cotnet_micro", SPEC, mixup=0.8), classes),
    "timm's gates": (lambda: ClassificationTask("resnest14d", SPEC), classes),
    "pyramid pooling": (
        lambda: SegmentationTask("convnext_atto", SPEC, decoder="upernet", decoder_args={"channels": 16}), pixels,
    ),
    "segmentation": (
        lambda: SegmentationTask("cotnet_micro", SPEC, decoder_args=NARROW), pixels,
    ),
    "detection": (lambda: DetectionTask("cotnet_micro", BOXES, detector="faster_rcnn", **DETECTOR), boxes),
    "video": (
        lambda: VideoTask("cotnet_micro", SPEC | {"frames": 1}),
        lambda n: (classes(n)[0].unsqueeze(1), classes(n)[1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_single_image_trains_and_leaves_the_statistics_of_single_values(case, monkeypatch):
    make, batch = CASES[case]
    task = make()
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    task.training_step(batch(2), 0).backward()
    names = task.try_out()
    assert names
    task.train()
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    loss = task.training_step(batch(1), 0)
    loss.backward()
    assert loss.isfinite()
    after = {key: value.clone() for key, value in task.model.state_dict().items()}
    for name in names:
        assert torch.equal(after[f"{name}.running_mean"], before[f"{name}.running_mean"])
    others = {n for n, m in task.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)} - set(
        names
    )
    trained = [n for n in others if not torch.equal(after[f"{n}.running_mean"], before[f"{n}.running_mean"])]
    assert trained or case in ("pyramid pooling",)
    # two images train everything again
    task.training_step(batch(2), 0).backward()
    again = task.model.state_dict()
    assert any(not torch.equal(again[f"{n}.running_mean"], after[f"{n}.running_mean"]) for n in names)


def test_looking_changes_nothing():
    task = ClassificationTask("cotnet_micro", SPEC)
    frozen = next(m for m in task.model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    names = single_value_norms(task.model, lambda: task(torch.randn(1, 3, 32, 32)))
    assert all(".se." in name or name.startswith("layer4") for name in names)
    assert any(name.endswith(".se.1") for name in names)
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())
    assert not frozen.training
    assert task.model.training


def test_norms_that_keep_their_statistics_anyway_are_none():
    task = DetectionTask("cotnet_micro", BOXES, detector="retinanet", **DETECTOR | {"norm": "eval"})
    assert not task.try_out()
    task = DetectionTask("cotnet_micro", BOXES, detector="retinanet", **DETECTOR | {"norm": "frozen"})
    assert not task.try_out()


SCENES = "digits-scenes#train=2,val=1,size=64"
SMALL = ["--device=cpu", "--epochs=1", "--warmup-epochs=0", "--logger=csv", "--pictures=false"]
PYRAMID = "--decoder-args={channels: 16, pyramid_channels: 16}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cotnet_micro", SCENES, "--task=segment", PYRAMID, "--batch-size=1"], True),
        (["cotnet_micro", SCENES, "--task=segment", PYRAMID, "--batch-size=2", "--micro-batch=1"], True),
        (["cotnet_micro", SCENES, "--task=segment", PYRAMID, "--batch-size=2"], False),
        (["resnet10t", SCENES, "--task=segment", PYRAMID, "--batch-size=1"], False),
    ],
)
def test_one_image_on_a_device(words, said, tmp_path, capsys):
    assert main(["train", *words, *SMALL, f"--out={tmp_path / 'run'}"]) == 0
    assert ("one image at a time: " in capsys.readouterr().err) is said


def test_activations_that_are_computed_again(monkeypatch):
    task = ClassificationTask("cotnet_micro", SPEC)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    task.model.set_grad_checkpointing(True)
    task.training_step(classes(1), 0).backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_norms_that_others_have_frozen_stay_so(monkeypatch):
    task = ClassificationTask("cotnet_micro", SPEC)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    norm = task.model.get_submodule(task.try_out()[0]).eval()
    task.training_step(classes(2), 0)
    assert not norm.training
