"""The embedded data set: 1797 handwritten digits, 8 × 8, which scikit-learn carries."""

import os
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ctxvision.data.epoch_data import EpochData
from ctxvision.data.error import DataError
from ctxvision.data.spec import DataSpec
from ctxvision.data.split import fingerprint, hold_out

CLASS_NAMES = tuple("0123456789")


class DigitsData(EpochData):
    """Handwritten digits, enlarged, in memory, split by class and always alike.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set, as
    ``sklearn.datasets.load_digits`` ships it). Training images are turned, scaled and shifted a little,
    never flipped.

    Args:
        image_size: height and width after the enlargement.
        in_chans: 3 repeats the grey channel, 1 keeps it.
        batch_size: per process.
        val_fraction: share of each digit held out.
        split_seed: of that choice.
        seed: of shuffling and augmentation.
        repeats: how often a training image comes up in a row, see `EpochSampler`.
        spec: of a trained network; replaces the size, the channels and the split.
        eval_split: what ``val_dataloader`` reads.

    Attributes:
        spec: what goes into the checkpoint.

    Raises:
        DataError: the network was trained on other classes.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_chans: int = 3,
        batch_size: int = 64,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        repeats: int = 1,
        spec: DataSpec | None = None,
        eval_split: Literal["val", "train", "all"] = "val",
    ) -> None:
        super().__init__()
        if spec and spec.class_names != CLASS_NAMES:
            raise DataError(f"digits: the network's classes are {', '.join(spec.class_names[:5])}, …, not 0 to 9")
        if not 0 < val_fraction < 1:
            raise DataError(f"the validation fraction must lie between 0 and 1, got {val_fraction}")
        self.source = "digits"
        self.batch_size = batch_size
        self.seed = seed
        self.repeats = repeats
        pixels, targets = _load()
        keys = [f"{target}/{index:04d}" for index, target in enumerate(targets.tolist())]
        fraction, split_seed = (spec.val_fraction, spec.split_seed) if spec else (val_fraction, split_seed)
        held_out = set().union(
            *(
                hold_out([k for k in keys if k.startswith(f"{name}/")], fraction, split_seed)
                for name in CLASS_NAMES
            )
        )
        is_val = torch.tensor([key in held_out for key in keys], dtype=torch.bool, device="cpu")
        if spec is None:
            train = _enlarge(pixels[~is_val], (image_size, image_size))
            mean, std = round(train.mean().item(), 4), round(train.std().item(), 4)
            spec = DataSpec(
                class_names=CLASS_NAMES,
                input_size=(in_chans, image_size, image_size),
                mean=(mean,) * in_chans,
                std=(std,) * in_chans,
                crop_pct=1.0,
                val_fraction=val_fraction,
                split_seed=split_seed,
                fingerprint=fingerprint(keys),
                train_counts=tuple(torch.bincount(targets[~is_val]).tolist()),
            )
        self.spec = spec
        self.fingerprint = fingerprint(keys)
        self.notes: list[str] = []
        self._train = pixels[~is_val], targets[~is_val]
        self.train_size = len(self._train[1])
        chosen = {"val": is_val, "train": ~is_val, "all": torch.ones_like(is_val)}[eval_split]
        self._eval = pixels[chosen], targets[chosen]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented; what does not fill an optimiser step is left out, see `batches`."""
        dataset = DigitsDataset(*self._train, self.spec, augment_seed=self.seed)
        return self._loader(dataset, sampler=self.train_order())

    def val_dataloader(self) -> DataLoader[Any]:
        """Every digit of the split exactly once, however many processes share it."""
        dataset = DigitsDataset(*self._eval, self.spec)
        return self._loader(dataset, sampler=self.eval_order(len(dataset)))

    def export(self, folder: str | os.PathLike[str], limit: int | None = None) -> list[str]:
        """Write the split's digits as PNG files ``000-is-7.png``, as they are: grey, 8 × 8.

        Args:
            folder: exists or is made.
            limit: how many; by default all.

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

    def _loader(self, dataset: "DigitsDataset", **options: Any) -> DataLoader[Any]:
        # 1797 tiny images: a worker process would cost more than it saves
        return DataLoader(dataset, batch_size=self.batch_size, collate_fn=_as_it_is, **options)


class DigitsDataset(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches of normalised digits: images (B, C, H, W) and classes (B,).

    Args:
        pixels: (N, 8, 8) uint8.
        targets: (N,) int64.
        spec: size and normalisation.
        augment_seed: seed of the augmentation, or ``None`` for none.
    """

    def __init__(self, pixels: Tensor, targets: Tensor, spec: DataSpec, augment_seed: int | None = None) -> None:
        self.images = _enlarge(pixels, spec.input_size[1:])
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


def _load() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
    return pixels, torch.from_numpy(digits.target).long()


def _enlarge(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 8, 8) uint8 → (N, 1, H, W) in [0, 1]; by PIL, like a file that is to be predicted."""
    height, width = size
    images = [Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC) for digit in pixels.numpy()]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).unsqueeze(1).float() / 255


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 10°, scale by up to 10 %, shift by up to 7 %; outside is black."""
    count = len(images)
    angle, scale, shift_x, shift_y = (
        torch.rand(4, count, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
    )
    angle, scale = angle * torch.pi / 18, 1 + 0.1 * scale
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, shift_x * 0.14], 1), torch.stack([sin, cos, shift_y * 0.14], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch
