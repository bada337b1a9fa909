"""What an epoch has counted before it was interrupted."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class EpochSoFar(Callback):
    """Carries the sums of an unfinished epoch through a checkpoint, such as that of the training loss.

    Without it the training loss of an epoch that was resumed in its middle would be the mean over the rest.

    It asks the module for two methods, which `ctxvision.tasks.Task` describes: ``epoch_sums()``
    returns scalars by name that add up over processes, and ``add_to_epoch(sums)`` takes them back. A module
    without these methods is left alone.
    """

    def __init__(self) -> None:
        self._restored: dict[str, float] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give the sums of before back to the module when the epoch goes on, on one process."""
        restored, self._restored = self._restored, None
        add = getattr(pl_module, "add_to_epoch", None)
        if add and restored and batch_idx and trainer.is_global_zero:
            add(restored)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the sums over all processes, by an all-reduce."""
        epoch_sums = getattr(pl_module, "epoch_sums", None)
        if epoch_sums is None:
            return
        by_name: dict[str, torch.Tensor] = epoch_sums()
        dtype = torch.promote_types(torch.float32, next(iter(by_name.values())).dtype)
        sums = torch.stack([value.to(dtype) for value in by_name.values()])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        checkpoint["epoch_so_far"] = dict(zip(by_name, sums.tolist(), strict=True))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the sums until the epoch goes on; checkpoints of other callbacks have none."""
        self._restored = checkpoint.get("epoch_so_far")
