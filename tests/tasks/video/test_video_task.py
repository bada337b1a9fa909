"""Training on clips: loss, metrics, views, checkpoints, the control."""

import copy
import logging

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from ctxvision.data import VideoData
from ctxvision.tasks import TaskError
from ctxvision.tasks.checkpoint_file import save_checkpoint
from ctxvision.tasks.video import VideoTask

SPEC = {"class_names": list("abcdefgh"), "input_size": [3, 32, 32], "frames": 4}
MODELS = ("contextual_convnext_micro", "cotnet_micro", "resnet10t")


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def trainer(**options):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **options},
    )


@pytest.mark.parametrize("model", MODELS)
def test_trains_and_reports(model):
    torch.manual_seed(0)
    data = VideoData("moving-digits#train=32,val=16", frames=2, batch_size=8)
    task = VideoTask(model, data.spec.to_dict(), lr=0.01)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    run = trainer(max_epochs=2)
    run.fit(task, datamodule=data)
    assert run.global_step == 8
    assert {"train_loss", *task.columns} <= run.callback_metrics.keys()
    assert all(torch.isfinite(v) for v in run.callback_metrics.values())
    assert sum(not torch.equal(before[name], p) for name, p in task.named_parameters()) > 0.8 * len(before)


def test_accuracy_and_loss_are_those_of_all_clips():
    data = VideoData("moving-digits#train=8,val=20", frames=2, batch_size=8)
    task = VideoTask("resnet10t", data.spec.to_dict()).eval()
    (metrics,) = trainer().validate(task, datamodule=data, verbose=False)
    dataset = data.eval_dataset()
    clips = torch.stack([dataset[place].image for place in range(20)])
    targets = torch.tensor([target for _, target in data.eval_samples])
    with torch.no_grad():
        logits = task(clips)
    assert metrics["val_top1"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert metrics["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-4)


def test_probabilities_of_views_are_averaged():
    task = VideoTask("contextual_convnext_micro", SPEC).eval()
    clips = torch.randn(2, 3, 4, 3, 32, 32)
    with torch.no_grad():
        found = task.validation_step((clips, torch.tensor([0, 1])), 0)["probabilities"]
        each = torch.stack([task(view).softmax(1) for view in clips.unbind(1)]).mean(0)
    assert torch.allclose(found, each, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(2))


def test_without_shift_the_order_of_frames_is_lost():
    clips = torch.randn(2, 4, 3, 32, 32)
    for shift, lost in (("none", True), ("both", False), ("past", False)):
        task = VideoTask("contextual_convnext_micro", SPEC, shift=shift).eval()
        with torch.no_grad():
            same = torch.allclose(task(clips), task(clips.flip(1)), atol=1e-4)
        assert same == lost


def test_empty_batch_gives_a_loss_without_gradient():
    task = VideoTask("resnet10t", SPEC)
    task.log = lambda *args, **kwargs: None
    loss = task.training_step((torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.long)), 0)
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in task.parameters())
    assert task.validation_step((torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.long)), 0) is None


@pytest.mark.parametrize("shift", ["both", "past", "none"])
def test_survives_a_checkpoint(tmp_path, shift):
    task = VideoTask("cotnet_micro", SPEC, shift=shift).eval()
    path = tmp_path / "video.ckpt"
    save_checkpoint({"hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}, path)
    held = torch.load(path, weights_only=True)
    other = VideoTask(**held["hyper_parameters"]).eval()
    other.load_state_dict(held["state_dict"])
    clips = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(task(clips), other(clips))


def test_weights_for_images_load():
    from ctxvision.tasks import ClassificationTask

    images = ClassificationTask("contextual_convnext_micro", SPEC)
    video = VideoTask("contextual_convnext_micro", SPEC)
    video.model.load_state_dict(images.model.state_dict())


def test_a_copy_has_shifts_of_its_own():
    """Averages of weights are kept in a copy of the task."""
    task = VideoTask("resnet10t", SPEC).eval()
    twin = copy.deepcopy(task)
    twin(torch.randn(1, 2, 3, 32, 32))
    assert (task.shifts.frames, twin.shifts.frames) == (4, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "vgg11"}, "no residual blocks"),
        ({"shift": "sideways"}, "shift must be both, past or none"),
        ({"optimizer": "nothing"}, "unknown optimizer"),
        ({"model": "cotnet_mikro"}, "did you mean cotnet_micro"),
    ],
)
def test_wrong_settings_are_found_at_once(arguments, message):
    with pytest.raises(TaskError, match=message):
        VideoTask(**{"model": "resnet10t", "data_spec": SPEC, **arguments})


def test_clips_of_another_shape():
    with pytest.raises(ValueError, match=r"clips must be \(B, T, C, H, W\), got \(2, 3, 32, 32\)"):
        VideoTask("resnet10t", SPEC)(torch.zeros(2, 3, 32, 32))
