"""Random numbers that do not depend on where a run was interrupted."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.data.dataset import seed_everything


class StepSeed(Callback):
    """Seeds every training step by itself, so that a resumed run repeats an uninterrupted one.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what mixup, dropout and stochastic depth draw from, by the step and the rank."""
        batches = trainer.num_training_batches
        # an endless data set has no number of batches
        step = trainer.current_epoch * int(batches) + batch_idx if math.isfinite(batches) else trainer.global_step
        seed_everything(self.seed, step * trainer.world_size + trainer.global_rank)
        if trainer.strategy.root_device.type != "cpu":
            torch.manual_seed(torch.initial_seed())
