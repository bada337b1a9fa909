"""The classification task: loss, optimiser, schedule, metrics, and what its checkpoint holds."""

import copy
import doctest

import pytest
import timm
import torch
from lightning.pytorch import Trainer
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch.utils.data import DataLoader, TensorDataset

from ctxvision.nn import ContextualLoss
from ctxvision.tasks import ClassificationTask, TaskError
from ctxvision.tasks.classification import task as classification

SPEC = {"class_names": [*"abcdefg"], "input_size": [3, 32, 32]}


def task(model="test_resnet", **options):
    return ClassificationTask(model, SPEC, **options)


def loader(count=8, batch_size=4, scale=1.0):
    images = torch.randn(count, 3, 32, 32) * scale
    return DataLoader(TensorDataset(images, torch.arange(count) % 7), batch_size=batch_size)


def trainer(folder, **options):
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, "enable_checkpointing": False, **options},
    )


def test_examples():
    assert doctest.testmod(classification).attempted == 3
    assert doctest.testmod(classification).failed == 0


def test_plain_networks_have_timm_s_loss():
    logits, targets = torch.randn(6, 7), torch.arange(6)
    torch.testing.assert_close(
        task(label_smoothing=0.2).train_loss(logits, targets), LabelSmoothingCrossEntropy(0.2)(logits, targets)
    )
    soft = torch.rand(6, 7).softmax(1)
    torch.testing.assert_close(task(mixup=0.5).train_loss(logits, soft), SoftTargetCrossEntropy()(logits, soft))


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_contextual_networks_have_their_own_loss(mixup):
    it = task("contextual_convnext_micro", mixup=mixup, label_smoothing=0.1)
    assert isinstance(it.train_loss, ContextualLoss)
    assert it.train_loss.label_smoothing == (0.0 if mixup else 0.1)
    it.log = lambda *args, **kwargs: None
    loss = it.training_step((torch.randn(4, 3, 32, 32), torch.arange(4)), 0)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in it.model.parameters())


def test_no_decay_for_norms_biases_and_what_the_network_names(tmp_path):
    it = task("contextual_convnext_micro", weight_decay=0.1)
    seen = trainer(tmp_path, max_steps=1)
    seen.fit(it, loader())
    (optimizer,) = seen.optimizers
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    everything = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert everything == {id(p) for p in it.parameters()}
    spared = it.model.no_weight_decay()
    assert spared
    for name, parameter in it.model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and name not in spared), name


def test_learning_rate_moves_with_every_optimiser_step(tmp_path):
    it = task(lr=0.5, optimizer="sgd", warmup_epochs=1)
    seen = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2)
    rates = []
    it.on_train_batch_end = lambda *args: rates.append(seen.optimizers[0].param_groups[0]["lr"])
    seen.fit(it, loader(16))
    assert seen.global_step == 4
    # of the next step: 0 and 0.25 in the warm-up, then half a cosine over the other two
    assert rates == pytest.approx([0.0, 0.25, 0.25, 0.5, 0.5, 0.25, 0.25, 0.0])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mixup_of_any_batch(count):
    it = task(mixup=0.8, cutmix=1.0)
    it.log = lambda *args, **kwargs: None
    images, targets = torch.randn(count, 3, 32, 32), torch.zeros(count, dtype=torch.int64)
    before = images.clone()
    assert it.training_step((images, targets), 0).isfinite()
    assert torch.equal(images, before)


def test_batch_without_images_changes_no_gradient():
    it = task()
    loss = it.training_step((torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.int64)), 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in it.parameters())
    assert it.validation_step((torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.int64)), 0) is None


def test_accuracy_is_counted_over_all_images(tmp_path):
    it = task().eval()
    data = loader(7, batch_size=3)
    (metrics,) = trainer(tmp_path).validate(it, data, verbose=False)
    images, targets = data.dataset.tensors
    with torch.no_grad():
        order = it(images).argsort(1, descending=True)
    assert metrics["val_top1"] == pytest.approx((order[:, 0] == targets).float().mean().item())
    assert metrics["val_top5"] == pytest.approx((order[:, :5] == targets[:, None]).any(1).float().mean().item())


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
def test_val_loss_is_the_mean_over_images_whatever_the_batches(tmp_path, batch_size):
    network = task().eval()
    data = loader(8, batch_size)
    images, targets = data.dataset.tensors
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(network(images), targets).item()
    (metrics,) = trainer(tmp_path).validate(network, data, verbose=False)
    assert metrics["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_top5_of_three_classes_is_always_right(tmp_path):
    it = ClassificationTask("test_resnet", SPEC | {"class_names": ["a", "b", "c"]})
    data = DataLoader(TensorDataset(torch.randn(3, 3, 32, 32), torch.arange(3)))
    assert trainer(tmp_path).validate(it, data, verbose=False)[0]["val_top5"] == 1


def test_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(TaskError, match="epoch 1; lower the learning rate"):
        trainer(tmp_path).fit(task(), loader(scale=float("nan")))


def test_no_readable_image_ends_the_run(tmp_path):
    empty = torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.int64)
    nothing = DataLoader([0], collate_fn=lambda _: empty)
    with pytest.raises(TaskError, match="not one training image"):
        trainer(tmp_path).fit(task(), nothing)
    with pytest.raises(TaskError, match="not one validation image"):
        trainer(tmp_path).validate(task(), nothing)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rednet5", {}, "unknown model 'rednet5'; did you mean rednet"),
        ("zzzz", {}, "ctxvision models"),
        ("test_resnet", {"model_args": {"surprise": 1}}, "surprise"),
        ("test_resnet", {"model_args": {"pretrained": True}}, "pretrained"),
        ("test_resnet", {"model_args": {"checkpoint_path": "x"}}, "checkpoint_path"),
        ("test_resnet", {"optimizer": "adamm"}, "unknown optimizer 'adamm'"),
        ("test_resnet", {"optimizer_args": {"surprise": 1}}, "optimizer_args of adamw: no argument 'surprise'"),
        ("test_resnet", {"optimizer": "lamb", "lr": -1.0}, "optimizer lamb"),
        ("test_resnet", {"schedule": "sine"}, "unknown schedule 'sine'; there are cosine, poly"),
        ("test_resnet", {"schedule_args": {"surprise": 1}}, "schedule_args: no argument 'surprise'"),
        ("hf-hub:timm/resnet18", {}, "unknown model"),
    ],
)
def test_errors_are_one_line(name, options, message):
    with pytest.raises(TaskError, match=message) as error:
        task(name, **options)
    assert "\n" not in str(error.value)


def test_model_arguments_reach_the_network():
    it = task("resnet10t", model_args={"stem_width": 16}, drop_path_rate=0.2)
    plain = timm.create_model("resnet10t", num_classes=7, stem_width=16, drop_path_rate=0.2)
    assert [p.shape for p in it.model.parameters()] == [p.shape for p in plain.parameters()]
    assert ClassificationTask("test_resnet", SPEC | {"input_size": [1, 32, 32]})(
        torch.zeros(2, 1, 32, 32)
    ).shape == (2, 7)


def test_dropout_and_mixing_are_passed_on():
    it = task("rednet_micro", dropout=0.25, mixup=0.8, cutmix=1.0, mixup_prob=0.7, mixup_switch_prob=0.3)
    assert it.model.drop_rate == 0.25
    assert (it.mixup.mixup_alpha, it.mixup.cutmix_alpha) == (0.8, 1.0)
    assert (it.mixup.mix_prob, it.mixup.switch_prob, it.mixup.mode) == (0.7, 0.3, "batch")
    assert task(mixup=0.8, mixup_mode="elem").mixup.mode == "elem"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_resnet", "contextual_convnext_micro"])
def test_compiled_network_is_the_same_network(model):
    it = task(model).eval()
    eager, names, calls = copy.deepcopy(it), [*it.state_dict()], []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    it.compile_network(backend=backend)
    assert [*it.state_dict()] == names
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled, expected = it.outputs(images), eager.outputs(images)
    assert calls
    torch.testing.assert_close(getattr(compiled, "logits", compiled), getattr(expected, "logits", expected))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "muon"])
def test_optimizers_of_timm_train(tmp_path, optimizer):
    it = task("cotnet_micro", optimizer=optimizer, lr=0.01)
    before = {name: p.clone() for name, p in it.named_parameters()}
    trainer(tmp_path, max_steps=2).fit(it, loader(4))
    assert all(p.isfinite().all() for p in it.parameters())
    assert not all(torch.equal(p, before[name]) for name, p in it.named_parameters())
