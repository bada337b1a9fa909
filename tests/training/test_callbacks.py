"""The callbacks in a plain Lightning trainer, with a module that knows nothing of this library."""

import csv
import logging
import os
import re
import signal
import threading

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctxvision.runs import RunFolder
from ctxvision.tasks import TaskError
from ctxvision.training.callbacks import (
    Curves,
    EpochLines,
    EpochSoFar,
    FiniteSteps,
    GracefulStop,
    LastEpochValidated,
    MetricsFile,
    RunCheckpoints,
    StepLines,
    StepSeed,
    TrackedRate,
)
from ctxvision.training.run_folder import RunCheckpointIO

BATCHES = 4


class Plain(LightningModule):
    """A line through points; with dropout, so that it draws random numbers."""

    def __init__(self, poison=()):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.poison, self.steps, self.drawn = poison, 0, []

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.drawn.append(float(torch.rand(())))
        loss = ((self.layer(nn.functional.dropout(x, 0.5)) - y) ** 2).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.steps += 1
        return loss * float("nan") if self.steps - 1 in self.poison else loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = ((self.layer(x) - y) ** 2).mean()
        self.log("val_loss", loss)
        self.log("val_score", 1 / (1 + loss))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Counting(Plain):
    """The same with a sum over the epoch, as `EpochSoFar` asks for it."""

    def __init__(self):
        super().__init__()
        self.counted = 0.0

    def training_step(self, batch, batch_idx):
        self.counted += 1
        return super().training_step(batch, batch_idx)

    def on_train_epoch_start(self):
        self.counted = 0.0

    def epoch_sums(self):
        return {"counted": torch.tensor(self.counted)}

    def add_to_epoch(self, sums):
        self.counted += sums["counted"]


class At(Callback):
    """Does something when a step of the run is over."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.do(trainer)


def points():
    x = torch.linspace(-1, 1, 4 * BATCHES).repeat(2, 1).T
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


def fit(callbacks, module=None, *, epochs=2, resume=None, **options):
    torch.manual_seed(0)
    module = module or Plain()
    given = {"logger": False, "enable_checkpointing": any(isinstance(c, RunCheckpoints) for c in callbacks)}
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False,
        enable_model_summary=False, **{**given, **options},
    )  # fmt: skip
    trainer.fit(module, points(), points(), ckpt_path=resume, weights_only=True if resume else None)
    return trainer, module


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_file_has_what_the_module_logs(tmp_path):
    fit([LastEpochValidated(), MetricsFile(RunFolder(tmp_path))], epochs=3, check_val_every_n_epoch=2)
    found = rows(tmp_path)
    assert list(found[0]) == ["epoch", "step", "lr", "train_loss", "val_loss", "val_score", "seconds"]
    assert [row["step"] for row in found] == ["4", "8", "12"]
    assert [bool(row["val_loss"]) for row in found] == [False, True, True]  # the last epoch by LastEpochValidated


def test_metrics_file_has_the_columns_that_are_named(tmp_path):
    fit([MetricsFile(RunFolder(tmp_path), ["val_score"])], epochs=1)
    assert list(rows(tmp_path)[0]) == ["epoch", "step", "lr", "train_loss", "val_score", "seconds"]


def test_curves_are_drawn_at_the_end(tmp_path):
    metrics = MetricsFile(RunFolder(tmp_path))
    fit([metrics, Curves(tmp_path / "curves.png", metrics)])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_epoch_lines(caplog):
    with caplog.at_level(logging.INFO, "ctxvision"):
        logging.getLogger("ctxvision").propagate = True  # which a command may have turned off
        fit([EpochLines("val_score", "score"), LastEpochValidated()], check_val_every_n_epoch=5)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("ctxvision")]
    first, second = dict.fromkeys(message for message in messages if message.startswith("epoch "))
    assert first.startswith("epoch 1/2  train loss ")
    assert "score" not in first
    assert "  val loss " in second
    assert second.endswith("%")


def test_step_seed_repeats_every_step(tmp_path):
    _, whole = fit([StepSeed(3)])
    _, again = fit([StepSeed(3)])
    _, other = fit([StepSeed(4)])
    assert whole.drawn == again.drawn
    assert len(set(whole.drawn)) == 2 * BATCHES
    assert whole.drawn != other.drawn


def test_checkpoints_of_the_best_and_of_the_newest(tmp_path):
    run = RunFolder(tmp_path)
    plugins = [RunCheckpointIO(run)]
    _, module = fit([checkpoints := RunCheckpoints(run, "val_score")], epochs=3, plugins=plugins)
    assert sorted(os.listdir(run.checkpoints)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    saved = torch.load(run.last, weights_only=True)
    assert saved["global_step"] == 3 * BATCHES
    assert torch.equal(saved["state_dict"]["layer.weight"], module.layer.weight)
    assert 0 < checkpoints.best_value < 1
    resumed = RunCheckpoints(run, "val_score")
    fit([resumed], epochs=4, resume=run.last)
    assert resumed.best_value >= checkpoints.best_value


def test_the_state_before_the_first_step_is_the_best_until_another_is_better(tmp_path):
    class Worse(Plain):
        def training_step(self, batch, batch_idx):
            return -super().training_step(batch, batch_idx)

    run, plugins = RunFolder(tmp_path), [RunCheckpointIO(RunFolder(tmp_path))]
    start = Plain().layer.state_dict()
    for module, best_epoch in ((Worse(), 0), (Plain(), 2)):
        module.layer.load_state_dict(start)
        checkpoints = RunCheckpoints(run, "val_score")
        fit([checkpoints], module, plugins=plugins, num_sanity_val_steps=-1)
        assert checkpoints.best_epoch == best_epoch
        best = torch.load(run.best, weights_only=True)["state_dict"]
        assert torch.equal(best["layer.weight"], start["weight"]) == (not best_epoch)
        assert torch.load(run.last, weights_only=True)["global_step"] == 2 * BATCHES


def test_checkpoints_within_an_epoch(tmp_path):
    seen = []
    run = RunFolder(tmp_path)
    looking = At(2, lambda trainer: seen.append(torch.load(run.last, weights_only=True)["global_step"]))
    fit([RunCheckpoints(run, "val_score", minutes=1e-9), looking], epochs=1)
    assert seen == [1]  # the checkpoint callback comes after all others


def test_finite_steps_end_a_run_or_leave_steps_out(tmp_path):
    with pytest.raises(TaskError, match="the training loss is not finite in epoch 1, step 2, batch 2 of 4"):
        fit([FiniteSteps()], Plain(poison={1}))
    steps, module = FiniteSteps(skip=2), Plain(poison={1, 5})
    fit([steps], module)
    assert steps.skipped == 2
    assert module.layer.weight.isfinite().all()


def test_epoch_so_far_counts_the_first_part_of_an_epoch(tmp_path):
    path = tmp_path / "middle.ckpt"
    fit([EpochSoFar(), At(BATCHES + 2, lambda trainer: trainer.save_checkpoint(path))], Counting())
    assert torch.load(path, weights_only=True)["epoch_so_far"] == {"counted": 2.0}
    _, module = fit([EpochSoFar()], Counting(), resume=path)
    assert module.counted == BATCHES
    fit([EpochSoFar()])  # a module without sums is left alone


def test_graceful_stop_saves_and_restores_the_signals(tmp_path):
    path, before = tmp_path / "last.ckpt", signal.getsignal(signal.SIGTERM)
    stop = GracefulStop(path)
    with pytest.raises(SystemExit):
        fit([stop, At(2, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))])
    assert stop.signal_number == signal.SIGTERM
    assert torch.load(path, weights_only=True)["global_step"] in (2, 3)
    assert signal.getsignal(signal.SIGTERM) is before
    fit([GracefulStop(path)], epochs=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_graceful_stop_in_a_thread_catches_nothing(tmp_path):
    stop, done = GracefulStop(tmp_path / "last.ckpt"), []
    thread = threading.Thread(target=lambda: done.append(fit([stop], epochs=1)[0].global_step))
    thread.start()
    thread.join()
    assert done == [BATCHES]


def test_tracked_rate(tmp_path):
    class Kept(Logger):
        name, version = "kept", 0

        def __init__(self):
            super().__init__()
            self.metrics = []

        def log_metrics(self, metrics, step=None):
            self.metrics.append((step, metrics))

        def log_hyperparams(self, params):
            pass

    kept = Kept()
    metrics = MetricsFile(RunFolder(tmp_path))
    fit([metrics, TrackedRate(metrics, every=2)], logger=kept)
    rates = [(step, metrics["lr"]) for step, metrics in kept.metrics if "lr" in metrics]
    assert rates == [(step, 0.1) for step in (2, 4, 6, 8)]
    assert all(metrics["train_loss_step"] > 0 for _, metrics in kept.metrics if "lr" in metrics)
    assert [metrics["epoch"] for _, metrics in kept.metrics if "seconds" in metrics] == [0, 1]


def test_step_lines(caplog):
    seconds = iter(range(0, 10_000, 10))
    with caplog.at_level(logging.INFO, "ctxvision"):
        logging.getLogger("ctxvision").propagate = True
        fit([StepLines(every=3)])
        fit([StepLines(clock=lambda: next(seconds))], epochs=1)
    lines = [r.getMessage() for r in caplog.records if r.name == "ctxvision.training.callbacks.progress"]
    assert [re.sub(r"  train loss \d+\.\d{4}", "", line).split("  ")[:3] for line in lines[:2]] == [
        ["epoch 1/2", "step 3/8", "lr 0.1"],
        ["epoch 2/2", "step 6/8", "lr 0.1"],
    ]
    assert all(re.search(r"  train loss \d", line) and line.endswith(" left") for line in lines)
    assert len(lines) > 2  # by the clock


class Threes(Plain):
    """A loss of 3 in every batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0 + 3


def test_step_lines_count_optimiser_steps_and_whole_losses(caplog):
    with caplog.at_level(logging.INFO, "ctxvision"):
        logging.getLogger("ctxvision").propagate = True
        fit([StepLines(every=1)], Threes(), epochs=1)
        fit([StepLines(every=1)], Threes(), epochs=1, accumulate_grad_batches=2)
    lines = [r.getMessage() for r in caplog.records if r.name == "ctxvision.training.callbacks.progress"]
    steps = [*(f"step {step}/4" for step in range(1, 5)), "step 1/2", "step 2/2"]
    assert [line.split("  ")[1:3] for line in lines] == [[step, "train loss 3.0000"] for step in steps]
