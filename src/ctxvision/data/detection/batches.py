"""Batches of images that are alike in shape, so that little of a batch is padding."""

import bisect
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

_BINS = (1.0,)  # width over height: upright, and at least as wide as high


class AspectBatches(Sampler[list[int]]):
    """Shuffles by (seed, epoch) and groups images of one orientation, shared out among processes.

    Batches form in the shuffled order, as soon as there are enough images of an orientation; what is left at the
    end forms mixed ones. All processes see the same batches and take turns. Like `EpochSampler` it yields
    ``epoch · size + index`` and can begin in the middle of an epoch.

    Source: torchvision's detection reference and Detectron2 group by the same two orientations.

    Args:
        ratios: width over height of every image.
        batch_size: per process.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        accumulate: batches of an optimiser step; those that do not fill one are left out, see `batches`.
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
        self.bins = [bisect.bisect_right(_BINS, ratio) for ratio in ratios]
        self.batch_size = batch_size
        self.seed, self.rank, self.world_size, self.accumulate = seed, rank, world_size, accumulate
        self._epoch = 0
        self._skip = 0

    @property
    def sampler(self) -> "AspectBatches":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def start_at(self, epoch: int, skip: int) -> None:
        """Begin with this epoch, without its first ``skip`` batches."""
        self._epoch, self._skip = epoch, skip

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of another epoch; Lightning calls this before each."""
        if epoch != self._epoch:
            self._epoch, self._skip = epoch, 0

    def __len__(self) -> int:
        whole = len(self.bins) // self.batch_size
        # the last, smaller batch is left out unless it is the only one
        each = whole // self.world_size or int(len(self.bins) > 0 and self.world_size == 1)
        return each if each < self.accumulate else each - each % self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()[self.rank :: self.world_size][: len(self)]
        return iter(batches[self._skip :])

    def _batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        size = len(self.bins)
        waiting: list[list[int]] = [[] for _ in range(len(_BINS) + 1)]
        batches = []
        for index in torch.randperm(size, generator=generator, device="cpu").tolist():
            group = waiting[self.bins[index]]
            group.append(self._epoch * size + index)
            if len(group) == self.batch_size:
                batches.append(group.copy())
                group.clear()
        rest = [index for group in waiting for index in group]
        batches += [rest[i : i + self.batch_size] for i in range(0, len(rest), self.batch_size)]
        return batches
