"""How many images of each class were right."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ClassCounts(Callback):
    """Counts the images of each class, and those whose first prediction is right.

    Args:
        num_classes: number of classes.

    Attributes:
        total: (num_classes,) int64.
        right: (num_classes,) int64.
    """

    def __init__(self, num_classes: int) -> None:
        self.total = torch.zeros(num_classes, dtype=torch.int64)
        self.right = torch.zeros(num_classes, dtype=torch.int64)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch; ``outputs`` is None where every image was bad."""
        if outputs is not None:
            targets = outputs["targets"].cpu()
            is_right = outputs["logits"].argmax(1).cpu() == targets
            self.total += torch.bincount(targets, minlength=len(self.total))
            self.right += torch.bincount(targets[is_right], minlength=len(self.total))
