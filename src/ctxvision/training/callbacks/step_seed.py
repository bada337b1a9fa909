"""Random numbers that do not depend on where a run was interrupted."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ctxvision.data.dataset import seed_everything


class StepSeed(Callback):
    """Seeds every training step by itself, so that a resumed run repeats an uninterrupted one.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what mixup, dropout and stochastic depth draw from."""
        step = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        seed_everything(self.seed, step * trainer.world_size + trainer.global_rank)
        if trainer.strategy.root_device.type != "cpu":
            torch.manual_seed(torch.initial_seed())
