"""Images with masks as a torch data set whose bad ones become reports instead of exceptions."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctxvision.data.dataset import BadImage, opened, seed_everything
from ctxvision.data.error import BadImageError
from ctxvision.data.images.reading import read_image

from .augmentation import PixelAugmentation
from .masks import read_mask
from .source import Pairs, PixelSet
from .spec import SegmentationSpec, to_pixels


class PixelSample(NamedTuple):
    """One normalised image, (C, H, W), and its classes, (H, W) uint8 with 255 where there is none."""

    image: Tensor
    mask: Tensor


class PixelBatch(NamedTuple):
    """Images and masks, and the files that should have been among them.

    For training both are stacked, (B, C, H, W) and (B, H, W); for evaluation they are lists, since sizes differ.
    """

    images: Tensor | list[Tensor]
    masks: Tensor | list[Tensor]
    bad: list[BadImage]


class PixelDataset(Dataset[PixelSample | BadImage]):
    """Reads images with their masks, checks and transforms them.

    Args:
        found: where they are opened and what their masks' values mean.
        pairs: which of them.
        spec: colour mode and normalisation.
        augmentation: for training; ``None`` leaves images and masks as they are.
        seed: of the augmentation, drawn per (seed, index). An index may be ``epoch · len + index``, see
            `EpochSampler`.
    """

    def __init__(
        self,
        found: PixelSet,
        pairs: Pairs,
        spec: SegmentationSpec,
        augmentation: PixelAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.found = found
        self.pairs = pairs
        self.spec = spec
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PixelSample | BadImage:
        image_name, mask_name = self.pairs[index % len(self.pairs)]
        try:
            table = self.found.table_for(mask_name)
            mask = read_mask(opened(self.found.open_name, mask_name), table, mask_name)
            image = read_image(
                opened(self.found.open_name, image_name),
                self.spec.color_mode,
                image_name,
                size=mask.size,
                turned=self.found.turned,
            )
        except BadImageError as error:
            return BadImage(error.path, error.reason)
        if mask.size != image.size:
            found = f"{mask.width} × {mask.height} pixels"
            return BadImage(mask_name, f"is {found}, its image {image.width} × {image.height}")
        if self.augmentation is None:
            return PixelSample(self.spec.normalize(to_pixels(image)), to_pixels(mask)[0])
        seed_everything(self.seed, index)
        pixels, classes = self.augmentation(image, mask)
        return PixelSample(self.spec.normalize(pixels), classes)


def collate_pixels_eval(items: list[PixelSample | BadImage]) -> PixelBatch:
    """List the good images."""
    good = [item for item in items if isinstance(item, PixelSample)]
    bad = [item for item in items if isinstance(item, BadImage)]
    return PixelBatch([item.image for item in good], [item.mask for item in good], bad)


def collate_pixels_train(items: list[PixelSample | BadImage]) -> PixelBatch:
    """Stack the good images, which take turns in the place of the bad; of none, the first axis is 0."""
    images, masks, bad = collate_pixels_eval(items)
    if not images:
        return PixelBatch(
            torch.empty(0, 0, 0, 0, dtype=torch.float32, device="cpu"),
            torch.empty(0, 0, 0, dtype=torch.uint8, device="cpu"),
            bad,
        )
    turns = [index % len(images) for index in range(len(items))]
    return PixelBatch(torch.stack([images[i] for i in turns]), torch.stack([masks[i] for i in turns]), bad)
