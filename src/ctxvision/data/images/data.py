"""Images with one class each, of any source, as a LightningDataModule."""

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor

from ctxvision.data.dataset import BadImage, LoadedSample, SizedDataset, opened, seed_everything
from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.labelled import Opener, SplitRule, as_path, require_two_classes
from ctxvision.data.module import DataModule, EvalSplit, Loading
from ctxvision.data.spec import ImageSpec

from .reading import read_image
from .source import find_images

if TYPE_CHECKING:
    from typing import Unpack

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
        mirrored: bool = True,
    ) -> Transform:
        """Return timm's transform for training: a random resized crop, a horizontal flip, and more on request.

        Args:
            auto_augment: The policy of augmentation in timm's notation, for example ``rand-m9-mstd0.5-inc1``;
                ``None`` applies none.
            color_jitter: The strength of random changes of brightness, contrast and saturation.
            random_erasing: The probability that a rectangle of an image is replaced by noise.
            crop_scale: The smallest share of an image that a crop covers; the largest is all of it.
            mirrored: Whether half of the images are flipped from left to right.

        Returns:
            A function from a PIL image to a tensor (C, H, W).

        Raises:
            DataError: timm has no such policy.
        """
        try:
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
                hflip=0.5 if mirrored else 0.0,
                re_mode="pixel",
            )
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"auto_augment {auto_augment!r}: no policy of timm such as rand-m9-mstd0.5-inc1 ({error})"
            ) from error
        return transform


class ImageData(DataModule):
    """Folders, tables, shards and more, with a validation part or split reproducibly; see `find_images`.

    A batch is images (B, C, H, W) and classes (B,). See `DataModule` for bad images, for the order of an epoch and
    for the attributes.

    Args:
        source: A folder, a ``.csv`` or ``.tar`` file, ``hf:NAME``, or another source of `find_images`.
        image_size: The height and width of the network's input in pixels; by default those of the images where all
            are alike and small (CIFAR: 32), else 224.
        interpolation: The filter of every resize, in training and evaluation, by PIL's name in lower case.
        crop_pct: The share of an image that the centre crop keeps in evaluation; by default all of images that are
            alike and small, and 0.875 of others.
        in_chans: The number of channels: 3 for RGB, 1 for grey.
        repeats: The number of times that a training image comes up in a row, each time augmented differently; an
            epoch keeps its length and so sees fewer images (repeated augmentation, see `EpochSampler`).
        auto_augment: The augmentation policy for training, in timm's notation; ``None`` applies none.
        color_jitter: The strength of random colour changes in training.
        random_erasing: The probability that a rectangle of a training image is replaced by noise.
        crop_scale: The smallest share of an image that a training crop covers.
        class_names: The classes in the order of a run that is resumed; by default in the order of the source.
        spec: The description of a trained network's data, whose classes, input size, normalisation and split
            replace those above.
        eval_split: The part that ``val_dataloader`` reads.
        loading: The arguments of `DataModule`: ``batch_size`` (by default 128), ``seed``, ``workers``,
            ``prefetch``
            (by default 4), ``strict``, ``val_fraction`` and ``split_seed``.

    Raises:
        DataError: The source cannot be used, or has classes that the network lacks.
    """

    task = "classification"
    usual_batch_size = 128
    spec_class = DataSpec
    spec: DataSpec

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        interpolation: str = "bicubic",
        crop_pct: float | None = None,
        in_chans: int = 3,
        repeats: int = 1,
        auto_augment: str | None = None,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
        crop_scale: float = 0.08,
        class_names: Sequence[str] | None = None,
        spec: DataSpec | None = None,
        eval_split: EvalSplit = "val",
        **loading: "Unpack[Loading]",
    ) -> None:
        super().__init__(source, repeats=repeats, **loading)
        rule = SplitRule.of(spec, self.val_fraction, self.split_seed, class_names)
        found = find_images(source, split=rule, strict=self.strict)
        if spec is None:
            require_two_classes(source, found.class_names)
        size = image_size or found.image_size or 224
        self.spec = spec or DataSpec(
            class_names=found.class_names,
            input_size=(in_chans, size, size),
            mean=IMAGENET_DEFAULT_MEAN if in_chans == 3 else (0.449,),
            std=IMAGENET_DEFAULT_STD if in_chans == 3 else (0.226,),
            interpolation=interpolation,
            crop_pct=crop_pct or (1.0 if found.image_size else 0.875),  # small images are centred already
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            fingerprint=found.fingerprint,
            train_counts=found.train_counts,
        )
        self.root, self.fingerprint, self.notes = found.root, found.fingerprint, found.notes
        self.train_samples = found.train
        self.train_size = len(found.train)
        self.eval_samples = self.choose_split(found.train, found.val, eval_split)
        self._open_image = found.open_image
        self._augmentation: dict[str, Any] = {
            "auto_augment": auto_augment,
            "color_jitter": color_jitter,
            "random_erasing": random_erasing,
            "crop_scale": crop_scale,
            "mirrored": found.mirrored,
        }
        self.spec.train_transform(**self._augmentation)  # refuses a wrong policy before the training

    def train_dataset(self) -> "ImageDataset":
        """Return the training images, augmented."""
        transform = self.spec.train_transform(**self._augmentation)
        return ImageDataset(
            self.train_samples, transform, self.spec.color_mode, seed=self.seed, open_image=self._open_image
        )

    def eval_dataset(self) -> "ImageDataset":
        """Return the images of the split that is evaluated, in order."""
        transform = self.spec.eval_transform()
        return ImageDataset(self.eval_samples, transform, self.spec.color_mode, open_image=self._open_image)


class ImageDataset(SizedDataset[LoadedSample | BadImage]):
    """Reads and transforms images: a sample is an image (C, H, W) and the number of its class.

    Args:
        samples: The (name, class) pairs.
        transform: The function that makes a PIL image (C, H, W).
        color_mode: PIL's mode that an image is converted to.
        seed: The seed of the random transforms, which are drawn per (seed, index); ``None`` leaves the generators
            alone. An index may be ``epoch · len + index``, see `EpochSampler`.
        open_image: The function that makes of a name what `read_image` reads; by default names are paths.
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

    def __getitem__(self, index: int) -> LoadedSample | BadImage:
        name, target = self.samples[index % len(self.samples)]
        try:
            image = read_image(opened(self.open_image, name), self.color_mode, name)
        except BadImageError as error:
            return BadImage(error.path, error.reason)
        if self.seed is not None:
            seed_everything(self.seed, index)
        return LoadedSample(self.transform(image), target)
