"""Recall of the class sets: by counting in plain Python, over several processes, and in the task."""

import pytest
import timm
import torch

from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import ClassSetRecall, is_contextual, kept_classes

SPEC = {"class_names": [str(i) for i in range(40)], "input_size": [3, 32, 32]}


def scored(selection="reduce", count=6):
    model = timm.create_model("contextual_convnext_micro", num_classes=40, selection=selection).eval()
    with torch.no_grad():
        return model, model.forward_stages(torch.randn(count, 3, 32, 32))


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_kept_are_the_best_of_those_scored(selection):
    model, output = scored(selection)
    kept = kept_classes(model, output)
    assert [classes.shape for classes in kept] == [(6, 20), (6, 8), (6, 5)]
    for classes, known, scores in zip(kept, output.classes, output.scores, strict=False):
        for image in range(6):
            ranked = sorted(zip(scores[image].tolist(), known[image].tolist(), strict=True), reverse=True)
            assert set(classes[image].tolist()) == {c for _, c in ranked[: classes.shape[1]]}


def test_recall_counts_images_of_all_batches():
    metric = ClassSetRecall(2)
    targets = torch.tensor([0, 1, 2, 3])
    wide, narrow = torch.tensor([[0, 9], [9, 1], [8, 9], [3, 0]]), torch.tensor([[0], [9], [8], [0]])
    metric.update([wide, narrow], targets)
    metric.update([torch.tensor([[5, 6]]), torch.tensor([[5]])], torch.tensor([6]))
    assert metric.compute().tolist() == pytest.approx([4 / 5, 1 / 5])


def test_recall_of_several_processes_is_that_of_all_images():
    kept, targets = [torch.randint(10, (7, 5)), torch.randint(10, (7, 2))], torch.randint(10, (7,))
    whole = ClassSetRecall(2)
    whole.update(kept, targets)
    shares = [ClassSetRecall(2) for _ in range(3)]  # the last has no image
    for metric, part in zip(shares, (slice(0, 5), slice(5, 7)), strict=False):
        metric.update([classes[part] for classes in kept], targets[part])
    gathered = shares[0]
    for state, reduce in gathered._reductions.items():
        setattr(gathered, state, reduce(torch.stack([getattr(metric, state) for metric in shares])))
    assert torch.equal(gathered.compute(), whole.compute())


def test_only_contextual_networks_have_more_columns():
    plain = ClassificationTask("test_resnet", SPEC)
    assert plain.columns == ("val_loss", "val_top1", "val_top5")
    assert plain.val_recall is None
    contextual = ClassificationTask("contextual_convnext_micro", SPEC)
    recalls = ("val_recall_2", "val_recall_3", "val_recall_4")
    assert contextual.columns == (*plain.columns, *recalls, "temperature")
    assert is_contextual(contextual.model)
    assert not is_contextual(plain.model)
    assert not any("val_recall" in name for name in contextual.state_dict())


def test_task_logs_what_an_evaluation_finds():
    task = ClassificationTask("contextual_convnext_micro", SPEC).eval()
    images, targets = torch.randn(12, 3, 32, 32), torch.randint(40, (12,))
    logged = {}
    task.log = lambda name, value, **options: logged.__setitem__(name, float(value))
    task.log_dict = lambda values: logged.update({name: float(value) for name, value in values.items()})
    with torch.no_grad():
        for part in (slice(0, 7), slice(7, 12)):
            task.validation_step((images[part], targets[part]), 0)
        kept = kept_classes(task.model, task.model.forward_stages(images))
    task.on_validation_epoch_end()
    for stage, classes in zip((2, 3, 4), kept, strict=True):
        right = sum(int(t) in row.tolist() for t, row in zip(targets, classes, strict=True))
        assert logged[f"val_recall_{stage}"] == pytest.approx(right / 12)
    assert logged["temperature"] == pytest.approx(0.07)
    assert logged["val_recall_2"] >= logged["val_recall_3"] >= logged["val_recall_4"] >= logged["val_top1"]
    assert int(task.val_recall.images) == 0
