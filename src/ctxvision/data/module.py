"""What the data modules of all tasks share: constructor, loaders, the share of each process, bad samples."""

import inspect
import logging
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, ClassVar, Literal, TypedDict, TypeVar

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .dataset import BadImage, Batch, SizedDataset, collate_eval, collate_train
from .error import BadImageError, DataError
from .sampler import EpochSampler, batches, resume
from .spec import Spec


def workers_for(images: int | None, batch_size: int) -> int:
    """Choose how many processes decode: one per processor, at most 8, and none that would have no batch.

    Args:
        images: The number of images; ``None`` if that is unknown.
        batch_size: The number of images that a process takes at a time.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(processors, 8) if images is None else min(processors, 8, images // batch_size)


_log = logging.getLogger(__name__)
_GRACE = 60  # seconds that a worker lives after SIGTERM

Collate = Callable[[Sequence[Any]], Any]
EvalSplit = Literal["val", "train", "all"]
ModuleType = TypeVar("ModuleType", bound="DataModule")


class Loading(TypedDict, total=False):
    """The arguments of `DataModule` that every data module passes on."""

    batch_size: int
    seed: int
    workers: int
    prefetch: int
    strict: bool
    val_fraction: float
    split_seed: int


class DataModule(LightningDataModule, ABC):
    """Samples shared out among processes in an order that depends on the seed and the epoch alone.

    An epoch does not depend on the number of workers; see `EpochSampler`. Samples that cannot be used are logged
    once, collected in ``bad_images`` and left out: an evaluation does not count them, while in training other
    samples of the batch take their place.

    A subclass sets ``spec``, ``notes``, ``root``, ``fingerprint`` and ``train_size``, and makes the two data sets.

    Args:
        source: The name of the data, as the user gives it.
        batch_size: The number of samples that a process takes at a time; by default ``usual_batch_size``.
        seed: The seed of shuffling and of augmentation.
        repeats: The number of times that a training sample comes up in a row, each time augmented differently.
        workers: The number of processes that decode; 0 decodes in the main process.
        prefetch: The number of batches that each worker keeps ready; by default ``usual_prefetch``.
        strict: Whether the first bad sample raises an error.
        val_fraction: The share of the samples (of each class, where they have one) to hold out where the source
            has no validation part.
        split_seed: The seed that chooses which samples are held out.

    Attributes:
        task: The name of the task that the samples are for.
        collate: The functions that make a batch of samples, for training and for evaluation.
        spec_class: The class of ``spec``.
        usual_batch_size: The batch size where none is given.
        usual_prefetch: The number of batches that each worker keeps ready where none is given.
        sample_name: The word for a sample, such as ``"image"``.
        spec: The description of the data that goes into the checkpoint.
        notes: The lines that the user should know about the source.
        root: The folder that sample names begin with, so that they can be shown without it.
        fingerprint: A digest of the names of a set that was split here; empty where it came in two parts.
        train_size: The number of training samples.
        image_size: The height and width of every image, where they are all alike and small; else ``None``.
        bad_images: The reason why a sample cannot be used, by its name, as far as this process has seen.
    """

    task: ClassVar[str]
    collate: ClassVar[tuple[Collate, Collate]] = (collate_train, collate_eval)
    spec_class: ClassVar[type[Spec]]
    usual_batch_size: ClassVar[int] = 16
    usual_prefetch: ClassVar[int] = 4
    sample_name: ClassVar[str] = "image"
    spec: Spec
    notes: list[str]
    root: str = "."
    fingerprint: str = ""
    train_size: int
    image_size: int | None = None

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        seed: int = 0,
        repeats: int = 1,
        workers: int = 0,
        prefetch: int | None = None,
        strict: bool = False,
        val_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = os.fspath(source)
        self.batch_size = self.usual_batch_size if batch_size is None else batch_size
        self.seed = seed
        self.repeats = repeats
        self.workers = workers
        self.prefetch = self.usual_prefetch if prefetch is None else prefetch
        self.strict = strict
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.bad_images: dict[str, str] = {}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Name the options that the constructor takes besides the source.

        Examples:
            >>> from ctxvision.data import ImageData
            >>> {"crop_scale", "workers"} <= set(ImageData.option_names())
            True
        """
        parameters = inspect.signature(cls.__init__).parameters.values()
        own = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        return (*own, *Loading.__annotations__)

    @classmethod
    def reads(cls, source: str | os.PathLike[str]) -> bool:
        """Tell whether this class reads a source; several classes of a task are asked in turn."""
        return True

    @classmethod
    def from_options(cls: type[ModuleType], source: str | os.PathLike[str], **options: Any) -> ModuleType:
        """Open a source with the options of the constructor.

        Args:
            source: A source for which `reads` holds.
            options: The options of the constructor.
        """
        return cls(source, **options)

    @abstractmethod
    def train_dataset(self) -> Dataset[Any]:
        """Return the training samples, augmented."""

    @abstractmethod
    def eval_dataset(self) -> SizedDataset[Any]:
        """Return the samples of the split that is evaluated, in order."""

    @property
    def eval_batch_size(self) -> int:
        """The number of samples that a process evaluates at a time."""
        return self.batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, shuffled and augmented; a part of an optimiser step is left out."""
        dataset = self.train_dataset()
        return self._loader(
            dataset, sampler=self.train_order(), batch_size=self.batch_size, collate_fn=self.collate[0]
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return every sample of the split exactly once, however many processes share it."""
        dataset = self.eval_dataset()
        order = self.eval_order(len(dataset))
        return self._loader(dataset, sampler=order, batch_size=self.eval_batch_size, collate_fn=self.collate[1])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Report the bad samples of a `Batch`; what remains are its images, see `to_input`, and its targets."""
        if not isinstance(batch, Batch):
            return batch
        self.report(batch.bad)
        return self.to_input(batch.images), batch.targets

    def to_input(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Turn the images of a batch, (B, C, H, W) or a list of (C, H, W), into what the network takes."""
        return images

    @property
    def batches_per_epoch(self) -> int:
        """The number of training batches of one process, a whole number of optimiser steps; see `batches`."""
        return batches(self.train_size // self.place()[1], self.batch_size, self.accumulate)

    @property
    def accumulate(self) -> int:
        """The number of batches of an optimiser step."""
        return int(self.trainer.accumulate_grad_batches) if self.trainer else 1

    def place(self) -> tuple[int, int]:
        """Return the rank of this process, from 0, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_order(self) -> Sampler[Any]:
        """Return the order of the training samples, from where a resumed run goes on.

        Raises:
            DataError: There are fewer samples than processes.
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
        self.require_enough(len(order))
        if self.trainer:
            resume(order, self.trainer, self.batch_size, self.batches_per_epoch)
        return order

    def require_enough(self, length: int) -> None:
        """Raise `DataError` if an epoch of this process has no sample."""
        if not length:
            raise DataError(
                f"{self.source}: {self.train_size} training {self.sample_name}s are too few for {self.place()[1]} "
                "processes"
            )

    def eval_order(self, size: int) -> range:
        """Return the numbers of the samples that this process evaluates: over all processes, each exactly once.

        Args:
            size: The number of samples.

        Raises:
            DataError: There are fewer samples than processes.
        """
        rank, world_size = self.place()
        if size < world_size:
            raise DataError(f"{size} validation {self.sample_name}s are too few for {world_size} processes")
        return range(rank, size, world_size)

    def _loader(self, dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
        """Return a loader whose workers leave signals to the main process."""
        return DataLoader(
            dataset,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            persistent_workers=self.workers > 0,
            worker_init_fn=_leave_signals,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            **options,
        )

    def report(self, bad: Iterable[BadImage]) -> None:
        """Log each bad sample once, and collect it in ``bad_images``.

        Args:
            bad: The bad samples of a batch.

        Raises:
            BadImageError: There is one, and ``strict`` is set.
        """
        for path, reason in bad:
            if self.strict:
                raise BadImageError(path, reason)
            if path not in self.bad_images:
                self.bad_images[path] = reason
                _log.warning("skipped %s: %s", path, reason)

    def choose_split(self, train: list[Any], val: list[Any], split: EvalSplit) -> list[Any]:
        """Return the samples of a split.

        Args:
            train: The training samples.
            val: The samples that are held out.
            split: The part that is evaluated: ``"val"``, ``"train"`` or ``"all"``.

        Raises:
            DataError: The split is empty.
        """
        chosen = {"val": val, "train": train, "all": train + val}[split]
        if not chosen:
            raise DataError(
                f"{self.source}: no {self.sample_name}s to {'validate' if split == 'val' else 'evaluate'} on; "
                "every class needs two or more, or add a validation part"
            )
        return chosen


def _leave_signals(_worker: int) -> None:
    """Ignore in a worker what asks a run to end; the main process saves, and then decides when workers end."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    # without Python: a worker may hang in a decoder
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_GRACE)
