"""Losses and gradients that are not finite: the run ends and says where, or leaves steps out."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from ctxvision.cli import main
from ctxvision.tasks import ClassificationTask, TaskError
from ctxvision.training.callbacks.steps import FiniteSteps

DIGITS = [
    "train",
    "test_resnet",
    "digits",
    "--image-size=16",
    "--batch-size=256",
    "--device=cpu",
    "--lr=0.01",
    "--pictures=false",
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def poison(monkeypatch, *batches, what=float("nan")):
    """Let the images of these batches, counted over the run, hold what no image holds."""
    original = ClassificationTask.training_step

    def patched(self, batch, batch_idx):
        number = self.current_epoch * self.trainer.num_training_batches + batch_idx
        images, targets = batch
        return original(self, (images * what if number in batches else images, targets), batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", patched)


def state(folder):
    return torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)


def test_step_and_batch_are_named_and_the_last_good_checkpoint_stays(monkeypatch, capsys):
    poison(monkeypatch, 7)
    assert main([*DIGITS, "--epochs=3", "--out=run"]) == 1
    error = capsys.readouterr().err
    assert "the training loss is not finite in epoch 2, step 8, batch 3 of 5; lower the learning rate" in error
    assert "--skip-nan N; the last good checkpoint is run/checkpoints/last.ckpt\n" in error
    assert "Traceback" not in error
    assert state("run")["epoch"] == 0
    assert all(value.isfinite().all() for value in state("run")["state_dict"].values())


def test_steps_are_left_out_up_to_the_limit(monkeypatch, capsys):
    poison(monkeypatch, 3, 7)
    assert main([*DIGITS, "--epochs=2", "--out=two", "--skip-nan=2", "--ema=0.9"]) == 0
    error = capsys.readouterr().err
    assert "not finite in epoch 1, step 4, batch 4 of 5: step left out, 1 of 2 allowed\n" in error
    assert "not finite in epoch 2, step 8, batch 3 of 5: step left out, 2 of 2 allowed\n" in error
    for part in ("state_dict", "current_model_state"):
        assert all(value.isfinite().all() for value in state("two")[part].values())
    assert state("two")["callbacks"]["FiniteSteps"]["skipped"] == 2
    assert main([*DIGITS, "--epochs=2", "--out=one", "--skip-nan=1"]) == 1
    error = capsys.readouterr().err
    assert "in epoch 2, step 8, batch 3 of 5 after 1 step had been left out; lower" in error
    assert state("one")["epoch"] == 0


def test_resumed_run_remembers_what_it_left_out(monkeypatch, capsys):
    poison(monkeypatch, 3, 7)
    assert main([*DIGITS, "--epochs=1", "--out=run", "--skip-nan=1"]) == 0
    assert main(["train", "--resume=run", "--epochs=2"]) == 1
    assert "after 1 step had been left out" in capsys.readouterr().err
    assert main(["train", "--resume=run", "--epochs=2", "--skip-nan=2"]) == 0
    with open("run/config.yaml") as file:
        assert yaml.safe_load(file)["skip_nan"] == 2


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_step_left_out_changes_nothing(monkeypatch, what):
    """The run whose second of two steps is left out ends like the run that has only the first."""
    words = [*DIGITS, "--batch-size=512", "--epochs=1", "--optimizer=sgd", "--warmup-epochs=0", "--accumulate=1"]
    seen = []

    def remember(self):
        seen.append({name: value.clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(ClassificationTask, "on_train_epoch_end", remember)
    poison(monkeypatch, 1, what=what)
    assert main([*words, "--skip-nan=1", "--out=run"]) == 0
    original = ClassificationTask.training_step
    first = []

    def step(self, batch, batch_idx):
        if batch_idx == 1:
            first.append({name: value.clone() for name, value in self.state_dict().items()})
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    assert main([*words, "--skip-nan=1", "--out=again"]) == 0
    for name, value in first[0].items():
        assert torch.equal(seen[0][name], value), name
        assert torch.equal(seen[1][name], value), name


def trainer_of(folder, **options):
    values = {
        "world_size": 1,
        "current_epoch": 0,
        "global_step": 4,
        "fit_loop": SimpleNamespace(batch_idx=4),
        "num_training_batches": 9,
        "precision_plugin": SimpleNamespace(),
        "is_global_zero": True,
    }
    return SimpleNamespace(**{**values, **options})


def step(callback, trainer, layer, loss, gradient):
    callback.on_train_batch_start(trainer, layer, None, 0)
    callback.on_before_backward(trainer, layer, torch.tensor(loss))
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    callback.on_before_optimizer_step(trainer, layer, None)


def test_gradient_alone_ends_the_run(tmp_path):
    with pytest.raises(TaskError, match=r"the training gradient is not finite in epoch 1, step 5, batch 5 of 9"):
        step(FiniteSteps(0, tmp_path / "none"), trainer_of(tmp_path), nn.Linear(2, 2), 1.0, float("inf"))


def test_loss_alone_ends_the_run(tmp_path):
    with pytest.raises(TaskError, match=r"the training loss is not finite"):
        step(FiniteSteps(0, tmp_path / "none"), trainer_of(tmp_path), nn.Linear(2, 2), float("inf"), 1.0)


def test_overflow_in_16_bits_is_left_to_the_scaler(tmp_path):
    def scaled(scale):
        plugin = SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: scale))
        return trainer_of(tmp_path, precision_plugin=plugin)

    callback, layer = FiniteSteps(0, tmp_path / "none"), nn.Linear(2, 2)
    step(callback, scaled(65536.0), layer, 1.0, float("inf"))
    assert layer.weight.grad.isinf().all()
    with pytest.raises(TaskError, match="gradient"):  # which no scale cures
        step(callback, scaled(0.5), layer, 1.0, float("inf"))
    with pytest.raises(TaskError, match="loss"):
        step(callback, scaled(65536.0), layer, float("nan"), float("nan"))


def test_one_bad_part_of_an_accumulated_step_is_enough(tmp_path):
    callback, layer, trainer = FiniteSteps(1, tmp_path / "none"), nn.BatchNorm1d(2), trainer_of(tmp_path)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for loss in (1.0, float("nan"), 1.0):
        callback.on_train_batch_start(trainer, layer, None, 0)
        layer(torch.randn(4, 2))
        callback.on_before_backward(trainer, layer, torch.tensor(loss))
    layer.weight.grad = torch.ones(2)
    callback.on_before_optimizer_step(trainer, layer, None)
    assert layer.weight.grad is None
    assert callback.skipped == 1
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())
    step(callback, trainer, layer, 1.0, 1.0)
    assert layer.weight.grad is not None
