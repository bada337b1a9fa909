"""All-reduces by which the processes of a run agree on what to do next."""

import time

import torch
from lightning.pytorch import Trainer

_SECONDS = 1.0  # between two all-reduces
_MOST = 50  # optimiser steps between two all-reduces


class Agreement:
    """Takes the maximum of a value over all processes between two optimiser steps, about once a second.

    A single process is asked after every step. With several the answer costs an all-reduce, in which every rank
    must take part after the same step: the number of steps until the next one follows from the slowest rank, and
    is the same on all ranks.
    """

    def __init__(self) -> None:
        self._every = 1
        self._steps = 0
        self._asked = time.monotonic()

    def due(self, trainer: Trainer, batch_idx: int) -> bool:
        """Tell whether an all-reduce follows this batch; every rank calls this after every batch.

        Args:
            trainer: Trainer of the run.
            batch_idx: Number of the batch in its epoch, from 0.
        """
        # the last batch of an epoch is followed by validation and by a checkpoint
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return False
        self._steps += 1
        return trainer.world_size == 1 or self._steps >= self._every

    def highest(self, trainer: Trainer, value: float) -> float:
        """Return the maximum of a value over all ranks, by an all-reduce that every rank must call.

        Args:
            trainer: Trainer of the run.
            value: Value of this rank.
        """
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
