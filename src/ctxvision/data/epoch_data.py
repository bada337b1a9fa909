"""What the data modules of all tasks share: who takes which samples, workers, and reports of bad samples."""

import logging
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any, ClassVar

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from .dataset import BadImage
from .error import BadImageError, DataError
from .sampler import EpochSampler, batches, resume

_log = logging.getLogger(__name__)
_GRACE = 60  # seconds that a worker lives after SIGTERM


class EpochData(LightningDataModule):
    """Samples shared out among processes in an order that the seed and the epoch decide.

    A child sets the attributes and builds its data sets.

    Attributes:
        sample_name: what a person calls a sample.
        source: what the user calls the data.
        train_size: number of training samples.
        batch_size: per process.
        seed: of the order, and of augmentation.
        repeats: how often a training sample comes up in a row, see `EpochSampler`.
        workers: processes that decode; 0 decodes in the main process.
        prefetch: batches that each worker keeps ready.
        strict: raise at the first bad sample.
        bad_images: reason by name, of this process.
    """

    sample_name: ClassVar[str] = "image"
    source: str
    train_size: int
    batch_size: int
    seed: int
    repeats: int = 1
    workers: int = 0
    prefetch: int = 4
    strict: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.bad_images: dict[str, str] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Number of training batches of one process, a whole number of optimiser steps; see `batches`."""
        return batches(self.train_size // self.place()[1], self.batch_size, self.accumulate)

    @property
    def accumulate(self) -> int:
        """Batches of an optimiser step."""
        return int(self.trainer.accumulate_grad_batches) if self.trainer else 1

    def place(self) -> tuple[int, int]:
        """Return the number of this process, from 0, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_order(self) -> EpochSampler:
        """Return the order of the training samples, from where a resumed run goes on.

        Raises:
            DataError: there are fewer than processes.
        """
        rank, world_size = self.place()
        order = EpochSampler(
            self.train_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            repeats=self.repeats,
            length=self.batches_per_epoch * self.batch_size,
        )
        if not len(order):
            raise DataError(
                f"{self.source}: {self.train_size} training {self.sample_name}s are too few for {world_size} "
                "processes"
            )
        if self.trainer:
            resume(order, self.trainer, self.batch_size, self.batches_per_epoch)
        return order

    def eval_order(self, size: int) -> range:
        """Return this process's share of so many samples: every sample exactly once.

        Raises:
            DataError: there are fewer than processes.
        """
        rank, world_size = self.place()
        if size < world_size:
            raise DataError(f"{size} validation {self.sample_name}s are too few for {world_size} processes")
        return range(rank, size, world_size)

    def loader(self, dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
        """Return a loader with workers that leave signals to the main process."""
        return DataLoader(
            dataset,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            persistent_workers=self.workers > 0,
            worker_init_fn=_leave_signals,
            pin_memory=bool(self.trainer) and self.trainer.strategy.root_device.type == "cuda",
            **options,
        )

    def report(self, bad: Iterable[BadImage]) -> None:
        """Name bad samples once, and count them.

        Raises:
            BadImageError: there is one, and the user is strict.
        """
        for path, reason in bad:
            if self.strict:
                raise BadImageError(path, reason)
            if path not in self.bad_images:
                self.bad_images[path] = reason
                _log.warning("skipped %s: %s", path, reason)


def _leave_signals(_worker: int) -> None:
    """What asks a run to end reaches its workers too; the main process saves, and then decides when they end."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    # without Python: a worker may hang in a decoder
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_GRACE)
