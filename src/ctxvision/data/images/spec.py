"""What a classifier must know about the images that it was trained on."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from ctxvision.data.error import DataError
from ctxvision.data.spec import ImageSpec

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class DataSpec(ImageSpec):
    """The classes, the input size and the normalisation of images that have one class each.

    Attributes:
        interpolation: The filter of the resize, by PIL's name for it in lower case.
        crop_pct: The share of an image that the centre crop keeps: it is resized to ``H / crop_pct`` before.
        train_counts: The number of training images of each class; empty where it was not noted.
    """

    _: KW_ONLY
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    train_counts: tuple[int, ...] = ()

    def validate_classes(self) -> None:
        """Check that there are two classes or more, and as many counts as classes."""
        if len(self.class_names) < 2:
            raise DataError(f"a classifier needs at least two classes, got {list(self.class_names)}")
        if len(self.train_counts) not in (0, len(self.class_names)):
            raise DataError(f"{len(self.class_names)} classes need as many counts, got {len(self.train_counts)}")

    def eval_transform(self) -> Transform:
        """Return timm's transform for evaluation: a resize and a centre crop. It makes a PIL image (C, H, W)."""
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
        """Return timm's transform for training: a random resized crop, a horizontal flip, and more on request.

        Args:
            auto_augment: The policy of augmentation in timm's notation, for example ``rand-m9-mstd0.5-inc1``;
                ``None`` applies none.
            color_jitter: The strength of random changes of brightness, contrast and saturation.
            random_erasing: The probability that a rectangle of an image is replaced by noise.
            crop_scale: The smallest share of an image that a crop covers; the largest is all of it.

        Returns:
            A function from a PIL image to a tensor (C, H, W).
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
