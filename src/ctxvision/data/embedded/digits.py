"""The embedded data set: 1797 handwritten digits, 8 × 8, which scikit-learn carries."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ctxvision.data.dataset import SizedDataset
from ctxvision.data.error import DataError
from ctxvision.data.images.data import DataSpec
from ctxvision.data.labelled import DEFAULT_SPLIT, SplitRule, fingerprint, hold_out
from ctxvision.data.module import DataModule, EvalSplit

CLASS_NAMES = tuple("0123456789")
_AUGMENTATION = ("auto_augment", "color_jitter", "random_erasing")
_OF_FILES = (*_AUGMENTATION, "workers", "prefetch", "strict", "crop_scale", "crop_pct", "class_names")


def _as_it_is(batch: Any) -> Any:
    return batch


class DigitsData(DataModule):
    """Handwritten digits, enlarged, in memory, split by class and always alike.

    A batch is images (B, C, H, W) and classes (B,). Training images are turned, scaled and shifted a little, never
    flipped. See `DataModule` for the order of an epoch and for the attributes.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set, as
    ``sklearn.datasets.load_digits`` ships it).

    Args:
        image_size: The height and width after the enlargement, in pixels.
        interpolation: The filter of the enlargement, by PIL's name in lower case.
        in_chans: The number of channels: 3 repeats the grey channel, 1 keeps it.
        batch_size: The number of images that a process takes at a time.
        val_fraction: The share of each digit to hold out.
        split_seed: The seed that chooses which images are held out.
        seed: The seed of shuffling and of augmentation.
        repeats: The number of times that a training image comes up in a row, see `EpochSampler`.
        spec: The description of a trained network's data, whose size, channels and split replace those above.
        eval_split: The part that ``val_dataloader`` reads.

    Raises:
        DataError: The network was trained on other classes.

    Examples:
        >>> images, targets = next(iter(DigitsData(batch_size=4).val_dataloader()))
        >>> images.shape, targets.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4]))
    """

    task = "classification"
    collate = (_as_it_is, _as_it_is)  # whole batches come from the data set
    spec_class = DataSpec
    spec: DataSpec

    def __init__(
        self,
        *,
        image_size: int = 32,
        interpolation: str = "bicubic",
        in_chans: int = 3,
        batch_size: int = 64,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        repeats: int = 1,
        spec: DataSpec | None = None,
        eval_split: EvalSplit = "val",
    ) -> None:
        super().__init__(
            "digits",
            batch_size=batch_size,
            seed=seed,
            repeats=repeats,
            val_fraction=val_fraction,
            split_seed=split_seed,
        )
        if spec and spec.class_names != CLASS_NAMES:
            raise DataError(f"digits: the network's classes are {', '.join(spec.class_names[:5])}, …, not 0 to 9")
        pixels, targets = load_digits()
        keys = digit_keys(targets)
        is_val = held_out_digits(keys, SplitRule.of(spec, val_fraction, split_seed))
        self.fingerprint = fingerprint(keys)
        if spec is None:
            train = _enlarge(pixels[~is_val], (image_size, image_size), interpolation)
            mean, std = round(train.mean().item(), 4), round(train.std().item(), 4)
            spec = DataSpec(
                class_names=CLASS_NAMES,
                input_size=(in_chans, image_size, image_size),
                mean=(mean,) * in_chans,
                std=(std,) * in_chans,
                interpolation=interpolation,
                crop_pct=1.0,
                val_fraction=val_fraction,
                split_seed=split_seed,
                fingerprint=self.fingerprint,
                train_counts=tuple(torch.bincount(targets[~is_val]).tolist()),
            )
        self.spec = spec
        self.notes = []
        self._train = pixels[~is_val], targets[~is_val]
        self.train_size = len(self._train[1])
        chosen = {"val": is_val, "train": ~is_val, "all": torch.ones_like(is_val)}[eval_split]
        self._eval = pixels[chosen], targets[chosen]

    @classmethod
    def reads(cls, source: str | os.PathLike[str]) -> bool:
        """Tell whether a source is the digits."""
        return os.fspath(source) == "digits"

    @classmethod
    def from_options(cls, source: str | os.PathLike[str], **options: Any) -> "DigitsData":
        """Open the digits with the options of `ImageData`; those of files have no meaning here.

        Args:
            source: The word ``digits``.
            options: The options of `ImageData`.

        Raises:
            DataError: An option asks for an augmentation that is for images in files.
        """
        asked = [name for name in _AUGMENTATION if options.get(name)]
        if asked:
            raise DataError(f"{asked[0]} is for images in files; digits have their own augmentation")
        return cls(**{name: value for name, value in options.items() if name not in _OF_FILES})

    def train_dataset(self) -> "DigitsDataset":
        """Return the training digits, augmented."""
        return DigitsDataset(*self._train, self.spec, augment_seed=self.seed)

    def eval_dataset(self) -> "DigitsDataset":
        """Return the digits of the split that is evaluated, in order."""
        return DigitsDataset(*self._eval, self.spec)

    def export(self, folder: str | os.PathLike[str], limit: int | None = None) -> list[str]:
        """Write the split's digits as PNG files ``000-is-7.png``, as they are: grey, 8 × 8.

        Args:
            folder: The folder to write to; it is made if it does not exist.
            limit: The largest number of digits to write; by default all.

        Returns:
            The paths, in order.
        """
        os.makedirs(folder, exist_ok=True)
        paths = []
        for index, (digit, target) in enumerate(zip(*self._eval, strict=True)):
            if limit is not None and index >= limit:
                break
            paths.append(os.path.join(folder, f"{index:03d}-is-{target}.png"))
            Image.fromarray(digit.numpy()).save(paths[-1])
        return paths


class DigitsDataset(SizedDataset[tuple[Tensor, Tensor]]):
    """Whole batches of normalised digits: images (B, C, H, W) and classes (B,).

    Args:
        pixels: The digits, (N, 8, 8) uint8.
        targets: The classes of the digits, (N,) int64.
        spec: The size and the normalisation of the images.
        augment_seed: The seed of the augmentation; ``None`` applies none.
    """

    def __init__(self, pixels: Tensor, targets: Tensor, spec: DataSpec, augment_seed: int | None = None) -> None:
        self.images = _enlarge(pixels, spec.input_size[1:], spec.interpolation)
        self.targets = targets
        self.spec = spec
        self.augment_seed = augment_seed

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a batch at once; torch's DataLoader looks for this method."""
        rows = torch.tensor(indices, dtype=torch.int64, device="cpu") % len(self)
        images = self.images[rows]
        if self.augment_seed is not None:
            generator = torch.Generator().manual_seed(self.augment_seed * 1_000_003 + indices[0])
            images = _augment(images, generator)
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device="cpu").view(-1, 1, 1)
            for v in (self.spec.mean, self.spec.std)
        )
        return (images - mean) / std, self.targets[rows]


def load_digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits, (N, 8, 8) uint8, and their classes, (N,) int64."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
    return pixels, torch.from_numpy(digits.target).long()


def digit_keys(targets: Tensor) -> list[str]:
    """Name each digit by its class and its number, for example ``7/0042``, from the classes (N,)."""
    return [f"{target}/{index:04d}" for index, target in enumerate(targets.tolist())]


def held_out_digits(keys: Sequence[str], rule: SplitRule = DEFAULT_SPLIT) -> Tensor:
    """Tell which digits are held out for validation, class by class, (N,) bool.

    Args:
        keys: The names that `digit_keys` returned.
        rule: The rule that says which digits are held out.
    """
    held_out: set[str] = set()
    for name in CLASS_NAMES:
        held_out |= hold_out([key for key in keys if key.startswith(f"{name}/")], rule.fraction, rule.seed)
    return torch.tensor([key in held_out for key in keys], dtype=torch.bool, device="cpu")


def _enlarge(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Enlarge digits (N, 8, 8) uint8 to (N, 1, H, W) in [0, 1], by PIL, like a file that is to be predicted."""
    height, width = size
    filter_ = Image.Resampling.__members__.get(interpolation.upper())
    if filter_ is None:
        raise DataError(f"digits: no filter {interpolation!r}; there are nearest, bilinear, bicubic, lanczos")
    images = [Image.fromarray(digit).resize((width, height), filter_) for digit in pixels.numpy()]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).unsqueeze(1).float() / 255


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn images (N, 1, H, W) by up to 10°, scale by up to 10 %, shift by up to 7 %; outside is black."""
    count = len(images)
    angle, scale, shift_x, shift_y = (
        torch.rand(4, count, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
    )
    angle, scale = angle * torch.pi / 18, 1 + 0.1 * scale
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, shift_x * 0.14], 1), torch.stack([sin, cos, shift_y * 0.14], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
