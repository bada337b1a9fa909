"""Every recipe trains: a few steps of its smallest network, and the moving average of the weights."""

import pytest
import torch
from lightning.pytorch import Callback

from _pictures import make_folder
from _recipes import GENERIC, PAIRS, TOP1, config_of, expected
from ctxvision.runs import RunFolder
from ctxvision.training.preparation import build_task, solve
from ctxvision.training.trainer import make_trainer

pytestmark = pytest.mark.slow


class Weights(Callback):
    """Copies of the weights after every step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps.append([p.detach().clone() for p in pl_module.parameters()])


SMALLEST = dict(reversed([*PAIRS, *GENERIC]))


@pytest.mark.parametrize("recipe", TOP1)
def test_a_few_steps_and_the_moving_average(recipe, tmp_path):
    root = make_folder(tmp_path / "data", {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1})
    words = ["--image-size=32", "--batch-size=4", "--epochs=1", "--warmup-epochs=0", "--device=cpu"]
    words += ["--cooldown-epochs=0"]
    config = config_of(recipe, SMALLEST[recipe], *words, f"--data={root}", "--workers=0", "--micro-batch=2")
    plan = solve(config.batch_size, 1, micro_batch=config.micro_batch)
    assert plan == (1, 1, 2, 2)
    data = config.open_data(plan.images)
    task = build_task(config, data)
    trainer, _, checkpoints = make_trainer(config, plan, 1, RunFolder(tmp_path), task, [])
    trainer.callbacks.remove(checkpoints)
    seen = Weights()
    trainer.callbacks.insert(0, seen)
    began = [p.detach().clone() for p in task.parameters()]
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 2
    half, first, _, second = seen.steps  # two batches make an optimiser step
    assert all(torch.equal(a, b) for a, b in zip(began, half, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(began, first, strict=True))
    assert all(p.isfinite().all() for p in second)
    decay = expected(recipe, SMALLEST[recipe])[-1]
    for final, w1, w2 in zip(task.parameters(), first, second, strict=True):
        average = decay * w1 + (1 - decay) * w2  # that begins at the weights after the first step
        torch.testing.assert_close(final.detach(), average, rtol=1e-6, atol=1e-8)
