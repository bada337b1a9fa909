"""What an epoch has counted before it was interrupted."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class EpochSoFar(Callback):
    """Carries the training loss and the number of batches of an unfinished epoch through a checkpoint.

    Without it ``train_loss`` of an epoch that was resumed in its middle would be the mean over the rest.
    """

    def __init__(self) -> None:
        self._restored: dict[str, float] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add what was counted before to the first batch that follows, on one process."""
        restored, self._restored = self._restored, None
        if restored and batch_idx and trainer.is_global_zero:
            mean = pl_module.train_mean
            mean.mean_value = mean.mean_value + restored["loss"]
            mean.weight = mean.weight + restored["images"]
            pl_module._batches_with_samples += int(restored["batches"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the sums over all processes."""
        mean = pl_module.train_mean
        batches = mean.weight.new_tensor(pl_module._batches_with_samples)
        sums = torch.stack([value.to(mean.mean_value.dtype) for value in (mean.mean_value, mean.weight, batches)])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        checkpoint["epoch_so_far"] = dict(zip(("loss", "images", "batches"), sums.tolist(), strict=True))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember them until the epoch goes on; older checkpoints have none."""
        self._restored = checkpoint.get("epoch_so_far")
