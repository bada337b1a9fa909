"""Samples and batches of every task; a sample that cannot be used becomes a report instead of an exception."""

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .error import BadImageError
from .files import in_words

Item = TypeVar("Item", covariant=True)
Opened = TypeVar("Opened")


class SizedDataset(Dataset[Item]):
    """A data set that knows how many samples it has."""

    @abstractmethod
    def __len__(self) -> int: ...


class LoadedSample(NamedTuple):
    """A sample as a data set returns it: what the network takes, and what it should answer.

    Attributes:
        image: The image, (C, H, W), or the clip, (T, C, H, W).
        target: The number of the class, the classes of the pixels, (H, W), or the objects of a detection set.
    """

    image: Tensor
    target: Any


class BadImage(NamedTuple):
    """The report of a sample that cannot be used; it travels from a worker to the main process in the batch.

    Attributes:
        path: The name of the sample.
        reason: The fault, described in one line.
    """

    path: str
    reason: str


class Batch(NamedTuple):
    """A batch as a loader returns it.

    Attributes:
        images: The images, stacked to (B, C, H, W) or, where their sizes differ, in a list of (C, H, W).
        targets: The targets of the images, stacked or in a list.
        bad: The samples that should have been in the batch and could not be used.
    """

    images: Tensor | list[Tensor]
    targets: Tensor | list[Any]
    bad: list[BadImage]


def opened(open_name: Callable[[str], Opened], name: str) -> Opened:
    """Open a sample by its name; a source that has lost the sample makes it a bad one.

    Args:
        open_name: The function that opens a name.
        name: The name of the sample.

    Raises:
        BadImageError: The sample cannot be opened.
    """
    try:
        return open_name(name)
    except BadImageError:
        raise
    except (OSError, ValueError, LookupError) as error:
        raise BadImageError(name, in_words(error)) from error


def seed_everything(seed: int, index: int) -> None:
    """Seed the generators that transforms draw from: Python's, NumPy's and torch's.

    Args:
        seed: The seed of the run.
        index: The number of the sample, another one in each epoch.
    """
    mixed = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - timm's transforms draw from the global generator
    torch.random.default_generator.manual_seed(mixed % 2**63)


def collate_lists(items: Sequence[LoadedSample | BadImage]) -> Batch:
    """Make a batch of lists, without the bad samples, for images that may differ in size."""
    good = [item for item in items if isinstance(item, LoadedSample)]
    bad = [item for item in items if isinstance(item, BadImage)]
    return Batch([item.image for item in good], [item.target for item in good], bad)


def collate_eval(items: Sequence[LoadedSample | BadImage]) -> Batch:
    """Stack the good samples, for evaluation; where there are none, the first axis of images and targets is 0."""
    return _stacked(*collate_lists(items))


def collate_train(items: Sequence[LoadedSample | BadImage]) -> Batch:
    """Stack the good samples, for training; they take turns in the place of the bad ones.

    The batch keeps its size, which batch normalisation, mixup and training on several devices count on.
    """
    images, targets, bad = collate_lists(items)
    turns = [index % len(images) for index in range(len(items))] if len(images) else []
    return _stacked([images[turn] for turn in turns], [targets[turn] for turn in turns], bad)


def _stacked(images: Tensor | list[Tensor], targets: Tensor | list[Any], bad: list[BadImage]) -> Batch:
    if not len(images):
        nothing = torch.empty(0, 0, 0, 0, dtype=torch.float32, device="cpu")
        return Batch(nothing, torch.empty(0, dtype=torch.int64, device="cpu"), bad)
    if isinstance(targets[0], Tensor):
        return Batch(torch.stack(list(images)), torch.stack(list(targets)), bad)
    return Batch(torch.stack(list(images)), torch.tensor(targets, dtype=torch.int64, device="cpu"), bad)
