"""Images as a torch data set whose bad ones become reports instead of exceptions."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .contents import Opener, as_path
from .error import BadImageError
from .files import in_words
from .images.reading import read_image
from .spec import Transform

Opened = TypeVar("Opened")


class Sample(NamedTuple):
    """One image, (C, H, W), and its class."""

    image: Tensor
    target: int


class BadImage(NamedTuple):
    """An image that cannot be used; travels from a worker to the main process in the batch."""

    path: str
    reason: str


class Batch(NamedTuple):
    """Images (B, C, H, W), classes (B,) int64, and the files that should have been among them."""

    images: Tensor
    targets: Tensor
    bad: list[BadImage]


class ImageDataset(Dataset[Sample | BadImage]):
    """Reads and transforms images.

    Args:
        samples: (name, class) pairs.
        transform: PIL image → (C, H, W).
        color_mode: PIL's mode.
        seed: of the random transforms, drawn per (seed, index); ``None`` leaves the generators alone. An
            index may be ``epoch · len + index``, see `EpochSampler`.
        open_image: makes of a name what `read_image` reads; by default names are paths.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        transform: Transform,
        color_mode: str,
        seed: int | None = None,
        open_image: Opener = as_path,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.color_mode = color_mode
        self.seed = seed
        self.open_image = open_image

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample | BadImage:
        name, target = self.samples[index % len(self.samples)]
        try:
            image = read_image(opened(self.open_image, name), self.color_mode, name)
        except BadImageError as error:
            return BadImage(error.path, error.reason)
        if self.seed is not None:
            seed_everything(self.seed, index)
        return Sample(self.transform(image), target)


def opened(open_name: Callable[[str], Opened], name: str) -> Opened:
    """Open a sample; a source that has lost it makes it a bad image.

    Raises:
        BadImageError: it cannot be opened.
    """
    try:
        return open_name(name)
    except BadImageError:
        raise
    except (OSError, ValueError, LookupError) as error:
        raise BadImageError(name, in_words(error)) from error


def seed_everything(seed: int, index: int) -> None:
    """Seed the three generators that transforms draw from."""
    mixed = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - timm's transforms draw from the global generator
    torch.random.default_generator.manual_seed(mixed % 2**63)


def collate_eval(items: list[Sample | BadImage]) -> Batch:
    """Stack the good images; of a batch without any, the first axis is 0."""
    good = [item for item in items if isinstance(item, Sample)]
    bad = [item for item in items if isinstance(item, BadImage)]
    images = (
        torch.stack([item.image for item in good])
        if good
        else torch.empty(0, 0, 0, 0, dtype=torch.float32, device="cpu")
    )
    return Batch(images, torch.tensor([item.target for item in good], dtype=torch.int64, device="cpu"), bad)


def collate_train(items: list[Sample | BadImage]) -> Batch:
    """Like `collate_eval`, but the good images take turns in the place of the bad.

    The batch keeps its size, which batch normalisation, mixup and training on several devices count on.
    """
    batch = collate_eval(items)
    if not batch.bad or not len(batch.images):
        return batch
    turns = torch.arange(len(items), device="cpu") % len(batch.images)
    return Batch(batch.images[turns], batch.targets[turns], batch.bad)
