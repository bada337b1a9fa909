"""The order in which a training epoch visits the samples, one by one or in batches of images alike in shape."""

import bisect
from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Sampler

_BINS = (1.0,)  # width over height: upright, and at least as wide as high


class _Resumable:
    """Knows the epoch that comes next, and how much of its beginning to leave out."""

    def __init__(self, size: int, *, seed: int, rank: int, world_size: int) -> None:
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._skip = 0

    def start_at(self, epoch: int, skip: int) -> None:
        """Begin in the middle of an epoch.

        Args:
            epoch: The number of the epoch, from 0.
            skip: The number of values, of those that `__iter__` yields in this epoch, that are left out.
        """
        self._epoch, self._skip = epoch, skip

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of another epoch; Lightning calls this before each."""
        if epoch != self._epoch:
            self._epoch, self._skip = epoch, 0

    def _shuffled(self) -> Tensor:
        """Return the numbers of all samples in the order of this epoch, (size,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        return torch.randperm(self.size, generator=generator, device="cpu")


class EpochSampler(_Resumable, Sampler[int]):
    """Shuffles by (seed, epoch), shared out among processes, and can begin in the middle of an epoch.

    It yields ``epoch · size + index``, so that a data set can draw its random numbers from (seed, epoch,
    index): a run then does not depend on the number of workers, and one that was interrupted continues
    exactly.

    With ``repeats`` an image comes up that many times in a row, as in timm's ``RepeatAugSampler``, so that
    several processes share its copies; they count as different indices, so that each is augmented by itself.
    The epoch is cut at its usual length and so sees fewer images (M. Berman et al., MultiGrain, 2019;
    H. Touvron et al., DeiT, 2021).

    Args:
        size: The number of images, over all processes.
        seed: The seed of the run.
        rank: The rank of this process.
        world_size: The number of processes.
        repeats: The number of times that an image comes up in a row; 1 visits every image once.
        length: The largest number of images of an epoch on one process; by default all.
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
        super().__init__(size, seed=seed, rank=rank, world_size=world_size)
        self.repeats = repeats
        self.length = size // world_size if length is None else min(length, size // world_size)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = self._shuffled()[: -(-self.size // self.repeats)]
        copies = self._epoch * self.repeats + torch.arange(self.repeats, device="cpu")
        order = (copies * self.size + order.unsqueeze(1)).flatten()[self.rank :: self.world_size]
        return iter(order[self._skip : len(self)].tolist())


class AspectBatches(_Resumable, Sampler[list[int]]):
    """Shuffles by (seed, epoch) and groups images of one orientation, so that little of a batch is padding.

    Batches form in the shuffled order, as soon as there are enough images of an orientation; what is left at the
    end forms mixed ones. All processes see the same batches and take turns. Like `EpochSampler` it yields
    ``epoch · size + index``.

    Source: torchvision's detection reference and Detectron2 group by the same two orientations.

    Args:
        ratios: The width of each image over its height.
        batch_size: The number of images that a process takes at a time.
        seed: The seed of the run.
        rank: The rank of this process.
        world_size: The number of processes.
        accumulate: The number of batches of an optimiser step; batches that do not fill a step are left out, see
            `batches`.
    """

    def __init__(
        self,
        ratios: Sequence[float],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        super().__init__(len(ratios), seed=seed, rank=rank, world_size=world_size)
        self.bins = [bisect.bisect_right(_BINS, ratio) for ratio in ratios]
        self.batch_size = batch_size
        self.accumulate = accumulate

    @property
    def sampler(self) -> "AspectBatches":
        """The sampler itself, since Lightning looks here for ``set_epoch``."""
        return self

    def __len__(self) -> int:
        whole = self.size // self.batch_size
        # the last, smaller batch is left out unless it is the only one
        each = whole // self.world_size or int(self.size > 0 and self.world_size == 1)
        return _whole_steps(each, self.accumulate)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()[self.rank :: self.world_size][: len(self)]
        return iter(batches[self._skip :])

    def _batches(self) -> list[list[int]]:
        waiting: list[list[int]] = [[] for _ in range(len(_BINS) + 1)]
        batches = []
        for index in self._shuffled().tolist():
            group = waiting[self.bins[index]]
            group.append(self._epoch * self.size + index)
            if len(group) == self.batch_size:
                batches.append(group.copy())
                group.clear()
        rest = [index for group in waiting for index in group]
        batches += [rest[i : i + self.batch_size] for i in range(0, len(rest), self.batch_size)]
        return batches


def batches(size: int, batch_size: int, accumulate: int = 1) -> int:
    """Count the batches of an epoch, so that every optimiser step has all its parts.

    The last, smaller batch is left out unless it is the only one, and so are batches that do not fill a step,
    unless all of them do not.

    Args:
        size: The number of images of a process.
        batch_size: The number of images at a time.
        accumulate: The number of batches of an optimiser step.

    Examples:
        >>> batches(100, 8), batches(100, 8, accumulate=5)
        (12, 10)
    """
    return _whole_steps(max(1, size // batch_size), accumulate)


def resume(
    sampler: EpochSampler | AspectBatches, trainer: Trainer, batch_size: int, batches_per_epoch: int
) -> None:
    """Put a sampler where a restored trainer stopped; at the beginning where nothing was restored.

    Args:
        sampler: The sampler of the training samples.
        trainer: The trainer, after it has read its checkpoint.
        batch_size: The number of values of the sampler that make a batch; 1 for `AspectBatches`.
        batches_per_epoch: The number of batches of an epoch on this process.
    """
    done = (trainer.fit_loop.total_batch_idx + 1) % batches_per_epoch
    sampler.start_at(trainer.current_epoch, done * batch_size)


def _whole_steps(batches: int, accumulate: int) -> int:
    return batches if batches < accumulate else batches - batches % accumulate
