"""The order in which a training epoch visits the images."""

from collections.abc import Iterator

import torch
from lightning.pytorch import Trainer
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Shuffles by (seed, epoch), shared out among processes, and can begin in the middle of an epoch.

    It yields ``epoch · size + index``, so that a data set can draw its random numbers from (seed, epoch,
    index): a run then does not depend on the number of workers, and one that was interrupted continues
    exactly.

    With ``repeats`` an image comes up that many times in a row, as in timm's ``RepeatAugSampler``, so that
    several processes share its copies; they count as different indices, so that each is augmented by itself.
    The epoch is cut at its usual length and so sees fewer images (M. Berman et al., MultiGrain, 2019;
    H. Touvron et al., DeiT, 2021).

    Args:
        size: number of images.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        repeats: 1 visits every image once.
        length: most images of an epoch on one process; by default all.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        length: int | None = None,
    ) -> None:
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        self.size = size
        self.repeats = repeats
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.length = size // world_size if length is None else min(length, size // world_size)
        self._epoch = 0
        self._skip = 0

    def start_at(self, epoch: int, skip: int) -> None:
        """Begin with this epoch, without its first ``skip`` images."""
        self._epoch, self._skip = epoch, skip

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of another epoch; Lightning calls this before each."""
        if epoch != self._epoch:
            self._epoch, self._skip = epoch, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        order = torch.randperm(self.size, generator=generator, device="cpu")[: -(-self.size // self.repeats)]
        copies = self._epoch * self.repeats + torch.arange(self.repeats, device="cpu")
        order = (copies * self.size + order.unsqueeze(1)).flatten()[self.rank :: self.world_size]
        return iter(order[self._skip : len(self)].tolist())


def batches(size: int, batch_size: int, accumulate: int = 1) -> int:
    """Count the batches of an epoch, so that every optimiser step has all its parts.

    The last, smaller batch is left out unless it is the only one, and so are batches that do not fill a step,
    unless all of them do not.

    Args:
        size: images of a process.
        batch_size: images at a time.
        accumulate: batches of an optimiser step.
    """
    whole = max(1, size // batch_size)
    return whole if whole < accumulate else whole - whole % accumulate


def resume(sampler: EpochSampler, trainer: Trainer, batch_size: int, batches_per_epoch: int) -> None:
    """Put a sampler where a restored trainer stopped; at the beginning where nothing was restored."""
    done = (trainer.fit_loop.total_batch_idx + 1) % batches_per_epoch
    sampler.start_at(trainer.current_epoch, done * batch_size)
