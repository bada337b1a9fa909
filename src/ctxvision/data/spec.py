"""What a network must know about the images that it was trained on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from .error import DataError

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class DataSpec:
    """Classes, input size and normalisation; travels inside every checkpoint as plain Python values.

    Attributes:
        class_names: one per output of the network, in its order.
        input_size: (C, H, W); C is 1 or 3.
        mean: per channel, of pixels in [0, 1].
        std: per channel, likewise.
        interpolation: of the resize, a name of PIL's filters in lower case.
        crop_pct: an image is resized to ``H / crop_pct`` before its centre is cropped.
        val_fraction: share of the images held out, where one folder was split.
        split_seed: seed of that split.
        fingerprint: of the names of the files that were split, so that ``evaluate`` holds out the same
            images.
        train_counts: number of training images of every class; empty where it was not noted.
    """

    class_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    val_fraction: float = 0.2
    split_seed: int = 0
    fingerprint: str = ""
    train_counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("class_names", "input_size", "mean", "std", "train_counts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        channels = self.input_size[0]
        if len(self.input_size) != 3 or channels not in (1, 3) or min(self.input_size) < 1:
            raise DataError(f"input size must be (1 or 3, height, width), got {self.input_size}")
        if len(self.mean) != channels or len(self.std) != channels:
            raise DataError(f"{channels} channels need as many means and deviations, got {self.mean}, {self.std}")
        if len(self.class_names) < 2:
            raise DataError(f"a classifier needs at least two classes, got {list(self.class_names)}")
        if len(self.train_counts) not in (0, len(self.class_names)):
            raise DataError(f"{len(self.class_names)} classes need as many counts, got {len(self.train_counts)}")

    @property
    def color_mode(self) -> str:
        """PIL's mode with as many channels: ``"L"`` or ``"RGB"``."""
        return "L" if self.input_size[0] == 1 else "RGB"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as lists, strings and numbers only."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataSpec":
        """Rebuild from `to_dict`; raises `DataError` on anything else."""
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(f"not a data specification: {error}") from error

    def eval_transform(self) -> Transform:
        """Resize and centre crop, as timm evaluates. PIL image → (C, H, W)."""
        transform: Transform = create_transform(
            self.input_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
        )
        return transform

    def train_transform(
        self,
        *,
        auto_augment: str | None = None,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
        crop_scale: float = 0.08,
    ) -> Transform:
        """Random-resized crop and horizontal flip, and more on request. PIL image → (C, H, W).

        Args:
            auto_augment: timm's policy string, e.g. ``rand-m9-mstd0.5-inc1``.
            color_jitter: strength of brightness, contrast and saturation changes.
            random_erasing: probability.
            crop_scale: smallest share of the image that a crop covers; the largest is all of it.
        """
        transform: Transform = create_transform(
            self.input_size,
            is_training=True,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            auto_augment=auto_augment,
            color_jitter=color_jitter,
            re_prob=random_erasing,
            scale=(crop_scale, 1.0),
            re_mode="pixel",
        )
        return transform
