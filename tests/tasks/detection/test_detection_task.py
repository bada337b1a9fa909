"""The detection task: losses, metrics, checkpoints of plain values, batches without usable images."""

import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from ctxvision.data import DetectionData
from ctxvision.tasks import TaskError
from ctxvision.tasks.detection import DetectionTask

SMALL = {
    "width": 16,
    "hidden": 32,
    "norm": "batch",
    "anchor_sizes": (12, 20, 32, 48, 80),
    "train_proposals": 50,
    "test_proposals": 30,
    "sampled_rois": 16,
    "min_size": 64,
    "max_size": 96,
    "lr": 1e-3,
}
BACKBONE = "rednet_micro"


def scenes(**options):
    return DetectionData("digits-scenes#train=6,val=4,size=64", batch_size=3, masks=True, **options)


def task_for(data, **options):
    return DetectionTask(BACKBONE, data.spec.to_dict(), **{"detector": "mask_rcnn", **SMALL, **options})


def trainer(**options):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


@pytest.fixture(scope="module")
def run():
    """One epoch on six scenes."""
    torch.manual_seed(0)
    data = scenes()
    task = task_for(data)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    fit = trainer(max_epochs=1)
    fit.fit(task, data)
    return task, data, fit, before


def test_all_parts_are_trained_and_reported(run):
    task, _, fit, before = run
    changed = {
        name.split(".")[1] for name, value in task.model.state_dict().items() if not value.equal(before[name])
    }
    assert changed == {"backbone", "rpn", "roi_heads"}
    metrics = fit.callback_metrics
    assert set(task.columns) < set(metrics)
    assert task.monitor in task.columns
    assert 0 <= metrics["val_box_ap"] <= 1
    assert 0 <= metrics["val_mask_ap50"] <= 1
    names = ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")
    assert all(metrics[f"train_loss_{name}"] > 0 for name in names)
    assert math.isfinite(metrics["train_loss"])


def test_loss_is_the_sum(run):
    task, data, _, _ = run
    images, targets = data.on_after_batch_transfer(next(iter(scenes().train_dataloader())), 0)
    task = task.train()
    torch.manual_seed(1)
    losses = task.model(images, targets)
    torch.manual_seed(1)
    # without a trainer there is nowhere to log to
    task.log = lambda *_, **__: None
    torch.testing.assert_close(task.training_step((images, targets), 0), sum(losses.values()))
    del task.log


def test_checkpoint_holds_plain_values(run, tmp_path):
    task, _, fit, _ = run
    fit.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert saved["ctxvision"]["task"] == "detection"
    again = DetectionTask(**saved["hyper_parameters"])
    again.load_state_dict(saved["state_dict"])
    image = torch.rand(3, 64, 64)
    torch.manual_seed(0)
    one, two = task.eval()([image])[0], again.eval()([image])[0]
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_metric_equals_that_of_the_detections(run):
    from ctxvision.tasks.detection.metric import DetectionMetric

    task, data, _, _ = run
    validate = trainer()
    validate.validate(task, data, verbose=False)
    metric = DetectionMetric(10, masks=True)
    with torch.no_grad():
        for batch in data.val_dataloader():
            images, targets = data.on_after_batch_transfer(batch, 0)
            for image, target in zip(images, targets, strict=True):
                metric.update([target], task.eval()([image]))
    found = metric.compute()
    assert validate.callback_metrics["val_box_ap"] == pytest.approx(found["bbox"].ap, rel=1e-4)
    assert validate.callback_metrics["val_mask_ap"] == pytest.approx(found["segm"].ap, rel=1e-4)


def test_batch_without_images_has_no_gradient():
    task = task_for(scenes(), detector="faster_rcnn")
    task.log = lambda *_, **__: None
    loss = task.training_step(([], []), 0)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in task.parameters() if p.requires_grad)
    assert task.validation_step(([], []), 0) is None


def test_images_without_objects_are_learnt_from():
    task = task_for(scenes())
    task.log = lambda *_, **__: None
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
    }
    loss = task.training_step(([torch.rand(3, 64, 64)] * 2, [empty, empty]), 0)
    loss.backward()
    assert loss.item() > 0


def test_nothing_to_find_is_an_error(monkeypatch):
    data = scenes()
    task = task_for(data, detector="faster_rcnn")
    monkeypatch.setattr(type(data.eval_samples.annotations), "__getitem__", lambda *_: [])
    with pytest.raises(TaskError, match="have no objects"):
        trainer().validate(task, data, verbose=False)


def test_boxes_alone_have_no_mask_columns():
    task = task_for(scenes(), detector="faster_rcnn")
    assert not any("mask" in column for column in task.columns)


@pytest.mark.parametrize(("wrong", "message"), [({"detector": "yolo"}, "yolo"), ({"optimizer": "sgdd"}, "sgdd")])
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(TaskError, match=message):
        task_for(scenes(), **wrong)


def test_example_input_fits():
    task = task_for(scenes(), min_size=[48, 64])
    assert task.example_input()[0].shape == (3, 64, 64)
    with torch.no_grad():
        assert set(task.eval()(task.example_input())[0]) == {"boxes", "labels", "scores", "masks"}


class SaveAt(Callback):
    """Save a checkpoint after so many steps, as a run that is stopped does."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_interrupted_run_ends_like_an_undisturbed_one(tmp_path):
    from ctxvision.training.callbacks.steps import StepSeed

    path = tmp_path / "in-the-second-epoch.ckpt"

    def fit(callbacks, resumed=None):
        torch.manual_seed(0)
        data = DetectionData("digits-scenes#train=7,val=2,size=48", batch_size=2)
        task = task_for(data, min_size=[48, 64], detector="faster_rcnn")
        run = trainer(max_epochs=2, callbacks=[StepSeed(0), *callbacks], limit_val_batches=0)
        run.fit(task, data, ckpt_path=resumed, weights_only=True)
        assert run.global_step == 6
        return task

    whole, again = fit([SaveAt(4, path)]), fit([], str(path))
    for (name, one), two in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_a_mean_that_leaves_classes_out_says_which(caplog):
    data = scenes()
    fit = trainer(max_epochs=1, limit_train_batches=1)
    fit.fit(task_for(data, detector="faster_rcnn"), data)
    there = {row["label"] for i in range(4) for row in data.val_dataloader().dataset[i].target["truth"]}
    without = [repr(name) for label, name in enumerate(data.spec.class_names, 1) if label not in there]
    (said,) = [record.message for record in caplog.records if "classes" in record.message]
    assert said.startswith(f"box AP is over {len(there)} of 10 classes, without {', '.join(without[:5])}")
