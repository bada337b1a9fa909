"""The segmentation task: loss, schedule, metrics over the whole set and all processes, checkpoints."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import multiprocessing
from torch.utils.data import DataLoader

from ctxvision.data import SegmentationData
from ctxvision.tasks import TaskError
from ctxvision.tasks.segmentation import PixelConfusion, SegmentationTask

SPEC = {"class_names": ["sky", "ground", "tree"], "input_size": [3, 64, 64]}
SMALL = {"decoder_args": {"pyramid_channels": 32, "channels": 32}}
UPERNET = {"decoder": "upernet", "decoder_args": {"channels": 32}}


def make(**options):
    return SegmentationTask("rednet_micro", SPEC, **(SMALL | options))


def batch(count=2, ignored=0.3):
    masks = torch.randint(0, 3, (count, 64, 64), dtype=torch.uint8)
    masks[torch.rand(masks.shape) < ignored] = 255
    return torch.randn(count, 3, 64, 64), masks


def quiet_trainer(**options):
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def with_logits(task, monkeypatch, logits, auxiliary=None):
    monkeypatch.setattr(task.model, "forward_with_auxiliary", lambda images: (logits, auxiliary))
    monkeypatch.setattr(task, "log_train_loss", lambda *_: None)
    return task


def test_loss_is_the_mean_over_labelled_pixels_and_the_auxiliary_share(monkeypatch):
    images, masks = batch()
    logits, auxiliary = torch.randn(2, 2, 3, 64, 64)
    task = with_logits(make(**UPERNET), monkeypatch, logits, auxiliary)
    labelled = masks != 255
    means = [F.cross_entropy(x.permute(0, 2, 3, 1)[labelled], masks[labelled].long()) for x in (logits, auxiliary)]
    torch.testing.assert_close(task.training_step((images, masks), 0), means[0] + 0.4 * means[1])
    weighted = with_logits(make(class_weights=[1.0, 0.0, 3.0]), monkeypatch, logits)
    weight = torch.tensor([1.0, 0.0, 3.0])
    expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[labelled], masks[labelled].long(), weight)
    torch.testing.assert_close(weighted.training_step((images, masks), 0), expected)


def test_batches_without_labels_or_images_change_nothing(monkeypatch):
    for nothing in (batch(ignored=1.1), batch(0)):
        task = make()
        monkeypatch.setattr(task, "log", lambda *_, **__: None)
        loss = task.training_step(nothing, 0)
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None and not p.grad.any() for p in task.parameters())


def test_upernet_trains_on_one_image_by_groups(monkeypatch):
    groups = SegmentationTask(
        "convnext_atto", SPEC, decoder="upernet", decoder_args={"channels": 64, "norm": "group"}
    )
    monkeypatch.setattr(groups, "log", lambda *_, **__: None)
    assert groups.training_step(batch(1), 0) > 0


class FourSteps:
    """What the schedule needs to know of a run: 5 epochs of 4 steps."""

    max_epochs, accumulate_grad_batches, max_steps, global_step = 5, 1, -1, 0

    class datamodule:
        batches_per_epoch = 4


def test_learning_rate_is_poly_0_9_in_every_step():
    task = make(optimizer="momentum", schedule_args={"decay_rate": 0.9})
    trainer = FourSteps()
    object.__setattr__(task, "_trainer", trainer)
    configured = task.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert type(optimizer) is torch.optim.SGD
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
    assert {g["nesterov"] for g in optimizer.param_groups} == {False}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 5e-4}
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - step / 20) ** 0.9)
        trainer.global_step = step + 1
        task.lr_scheduler_step(schedule, None)


def test_a_run_validates_and_its_checkpoint_needs_nothing_else(tmp_path):
    data = SegmentationData("digits-scenes#train=4,val=3,size=48", batch_size=2, eval_batch_size=2)
    task = SegmentationTask("rednet_micro", data.spec.to_dict(), **SMALL)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, data)
    assert 0 <= trainer.callback_metrics["val_miou"] <= 1
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["ctxvision"]["task"] == "segmentation"
    again = SegmentationTask(**checkpoint["hyper_parameters"])
    again.load_state_dict(checkpoint["state_dict"])
    task.eval(), again.eval()
    # what the run measured is what a loop over the images counts
    confusion = torch.zeros(11, 11, dtype=torch.long)
    for images, masks in (data.on_after_batch_transfer(b, 0) for b in data.val_dataloader()):
        for image, mask in zip(images, masks, strict=True):
            found = again.segment(image)
            assert torch.equal(found.classes, task.segment(image).classes)
            kept = mask != 255
            confusion += torch.bincount(mask[kept].long() * 11 + found.classes[kept], minlength=121).view(11, 11)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = (confusion.diagonal() / union)[union > 0].mean()
    assert trainer.callback_metrics["val_miou"].item() == pytest.approx(iou.item(), abs=1e-6)
    assert trainer.callback_metrics["val_pixel_accuracy"].item() == pytest.approx(
        (confusion.trace() / confusion.sum()).item(), abs=1e-6
    )


class Images(SegmentationData):
    """Validation on these pairs."""

    def __init__(self, pairs):
        super().__init__("digits-scenes#train=2,val=2,size=48")
        self.pairs = pairs

    def val_dataloader(self):
        batches = [([], []) if image is None else ([image], [mask]) for image, mask in self.pairs]
        return DataLoader(batches, batch_size=None)


def validate(pairs, **options):
    task = make(**options)
    trainer = quiet_trainer()
    return trainer.validate(task, Images(pairs), verbose=False)[0]


def test_images_of_any_sizes_in_windows():
    pairs = [(torch.randn(3, *size), torch.randint(0, 3, size)) for size in ((40, 90), (70, 33))]
    assert 0 <= validate(pairs, window=(32, 32), window_stride=[16, 32])["val_miou"] < 1


def test_validation_that_says_nothing_is_an_error():
    with pytest.raises(TaskError, match="not one validation image could be read"):
        validate([(None, None)])
    with pytest.raises(TaskError, match="not one pixel of the validation masks has a class"):
        validate([(torch.zeros(3, 64, 64), torch.full((64, 64), 255))])


def test_an_image_without_labels_does_not_spoil_the_loss():
    pairs = [(torch.randn(3, 64, 64), torch.full((64, 64), 255)), (torch.randn(3, 64, 64), torch.zeros(64, 64))]
    metrics = validate([(image, mask.to(torch.uint8)) for image, mask in pairs])
    assert math.isfinite(metrics["val_loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": [64]}, r"window must be height and width, at least 1, got \[64\]"),
        ({"window": [64, 64], "window_stride": [65, 64]}, r"window_stride \[65, 64\] leaves gaps"),
        ({"window_stride": [32, 32]}, "leaves gaps"),
        ({"class_weights": [1.0]}, "3 classes need as many weights"),
        ({"class_weights": [1.0, -1.0, 1.0]}, "none below 0"),
        ({"optimizer": "adamm"}, "unknown optimizer"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(TaskError, match=message):
        make(**options)


@pytest.mark.parametrize("name", ["rednet_micro", "convnext_atto", "contextual_convnext_micro"])
def test_weights_of_a_trained_classifier_fit_the_backbone(name, tmp_path):
    """timm's feature networks name their tensors in three ways."""
    classifier = timm.create_model(name, num_classes=1000).eval()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    task = SegmentationTask(name, SPEC, **SMALL)
    task.start_from(str(tmp_path / "classifier.pt"))
    images = torch.randn(1, 3, 64, 64)
    backbone = task.model.backbone.eval()
    expected = classifier.forward_intermediates(images, intermediates_only=True)[-4:]
    for feature, norm, whole in zip(backbone(images), backbone.norms, expected, strict=True):
        torch.testing.assert_close(feature, norm(whole))


def _share(rank, folder):
    torch.set_num_threads(1)  # a forked process has no pool of threads
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(0)
    confusion = PixelConfusion(3)
    for index in range(3):  # one process has two images, the other one
        predicted, truth = torch.randint(0, 3, (2, 4 + index, 5), generator=generator)
        if index % 2 == rank:
            confusion.update(predicted, truth)
    torch.save(confusion.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.process
def test_processes_count_together(tmp_path):
    multiprocessing.start_processes(_share, (tmp_path,), nprocs=2, start_method="fork")
    generator = torch.Generator().manual_seed(0)
    whole = PixelConfusion(3)
    for index in range(3):
        whole.update(*torch.randint(0, 3, (2, 4 + index, 5), generator=generator))
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), whole.compute())


def test_a_mean_that_leaves_classes_out_says_which_once(caplog):
    images, masks = batch(2, ignored=0)
    loader = DataLoader([(image, mask.clamp(max=1)) for image, mask in zip(images, masks, strict=True)], 2)
    task = make(lr=0.0)
    bias = next(p for n, p in reversed(list(task.model.named_parameters())) if p.shape == (3,))
    torch.nn.init.constant_(bias[2:], -1e4)  # never predicted either
    quiet_trainer(max_epochs=2).fit(task, loader, DataLoader([([images[0]], [masks[0].clamp(max=1)])], None))
    said = [record.message for record in caplog.records if "classes" in record.message]
    assert said == ["mIoU is over 2 of 3 classes, without 'tree'"]
