"""Networks and tasks compute the same whatever torch's default dtype is."""

import logging

import pytest
import timm
import torch
from lightning.pytorch import Trainer

from ctxvision.data import DetectionData
from ctxvision.data.embedded.moving_digits import MovingDigits
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

NETWORKS = ("contextual_convnext_micro", "cotnet_micro", "rednet_micro")
SPEC = {"class_names": list("abc"), "input_size": [3, 32, 32]}


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float64], ids=str)
def other_dtype(request):
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, other_dtype):
    network = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    found = []
    for dtype in (torch.float32, other_dtype):
        torch.set_default_dtype(dtype)
        network.zero_grad()
        logits = network(images)
        logits.square().sum().backward()
        found.append([logits.detach(), *[p.grad.clone() for p in network.parameters() if p.grad is not None]])
    assert all(torch.equal(a, e) and a.dtype == torch.float32 for a, e in zip(*found, strict=True))


def detection():
    spec = DetectionData("digits-scenes#train=2,val=2,size=64").spec.to_dict()
    return DetectionTask(
        "rednet_micro", spec,
        detector="retinanet", width=16, min_size=64, max_size=64, anchor_sizes=(12, 20, 32, 48, 80),
    )  # fmt: skip


def one_step(make, batch, dtype):
    """The loss of a training step, and all gradients."""
    torch.manual_seed(0)
    task = make().train()
    task.log = task.log_train_loss = lambda *_, **__: None
    torch.set_default_dtype(dtype)
    torch.manual_seed(1)
    loss = task.training_step(batch, 0)
    loss.backward()
    torch.set_default_dtype(torch.float32)
    return [loss.detach(), *[p.grad for p in task.parameters() if p.grad is not None]]


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
STEPS = {
    "classification": (lambda: ClassificationTask("cotnet_micro", SPEC), (IMAGES, torch.tensor([0, 2]))),
    "segmentation": (
        lambda: SegmentationTask("rednet_micro", SPEC, decoder_args={"pyramid_channels": 16, "channels": 16}),
        (IMAGES, torch.randint(3, (2, 32, 32), generator=torch.Generator().manual_seed(0)).byte()),
    ),
    "video": (
        lambda: VideoTask("contextual_convnext_micro", SPEC | {"frames": 2}),
        (IMAGES.unsqueeze(0).repeat(2, 1, 1, 1, 1), torch.tensor([0, 2])),
    ),
    "detection": (
        detection,
        ([torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))],
         [{"boxes": torch.tensor([[8.0, 8, 40, 30]]), "labels": torch.tensor([1])}]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step(name, other_dtype):
    expected, actual = (one_step(*STEPS[name], dtype) for dtype in (torch.float32, other_dtype))
    assert all(torch.equal(a, e) and a.dtype == e.dtype for a, e in zip(actual, expected, strict=True))


def test_drawn_clips(other_dtype):
    expected = MovingDigits("train", clips=2, frames=2).clips
    torch.set_default_dtype(other_dtype)
    assert torch.equal(MovingDigits("train", clips=2, frames=2).clips, expected)


def test_lightning_s_true_half_precision_counts_all_images():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(precision="bf16-true", accelerator="cpu", logger=False, enable_checkpointing=False)
    with trainer.init_module():
        task = ClassificationTask("rednet_micro", SPEC)
    for _ in range(300):
        task.val_samples.update(1)
    assert task.val_samples.compute() == 300
