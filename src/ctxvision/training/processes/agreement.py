"""How the processes of a run agree on what to do next."""

import time

import torch
from lightning.pytorch import Trainer

_SECONDS = 1.0  # between two questions
_MOST = 50  # optimiser steps between two questions


class Agreement:
    """Asks all processes the same question between two optimiser steps, about once a second.

    A single process is asked after every step. With several an answer costs a message, and all must ask after the
    same step: how many steps pass until the next question follows from the slowest, so that all know it.
    """

    def __init__(self) -> None:
        self._every = 1
        self._steps = 0
        self._asked = time.monotonic()

    def due(self, trainer: Trainer, batch_idx: int) -> bool:
        """Tell whether to ask after this batch; to be called after every batch."""
        # the last batch of an epoch is followed by validation and by a checkpoint
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return False
        self._steps += 1
        return trainer.world_size == 1 or self._steps >= self._every

    def highest(self, trainer: Trainer, value: float) -> float:
        """Return the highest value that a process has; all must call it."""
        if trainer.world_size == 1:
            return value
        now = time.monotonic()
        answer = torch.tensor(
            [value, (now - self._asked) / max(self._steps, 1)],
            dtype=torch.float32,
            device=trainer.strategy.root_device,
        )
        highest, seconds = trainer.strategy.reduce(answer, reduce_op="max").tolist()
        self._every = int(min(max(_SECONDS / max(seconds, 1e-9), 1), _MOST))
        self._steps, self._asked = 0, now
        return float(highest)
