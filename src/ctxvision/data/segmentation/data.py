"""Images with a class for every pixel, of any source, as a LightningDataModule."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ctxvision.data.dataset import (
    BadImage,
    LoadedSample,
    SizedDataset,
    collate_lists,
    collate_train,
    opened,
    seed_everything,
)
from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.images.reading import read_image
from ctxvision.data.images.source import require_folder
from ctxvision.data.images.turned import EXIF, find_turned
from ctxvision.data.labelled import DEFAULT_SPLIT, SplitRule, as_path
from ctxvision.data.module import DataModule, EvalSplit, Loading
from ctxvision.data.options import check_options, choose_value, split_options

from .augmentation import PixelAugmentation
from .cityscapes import is_cityscapes, scan_cityscapes, scenes_pixel_set
from .masks import evaluation_notes, read_mask, survey, training_notes
from .source import Pairs, PixelSet, SegmentationSpec, require_classes, scan_pixel_folder, to_pixels

if TYPE_CHECKING:
    from typing import Unpack

_LARGEST_CROP = 512  # of images whose source says nothing


def find_pixels(data: str | os.PathLike[str], *, split: SplitRule = DEFAULT_SPLIT) -> PixelSet:
    """Find the classes, the images and the masks that a source holds.

    - ``digits-scenes``: the embedded scenes; options ``train``, ``val`` (how many), ``size`` and ``seed``;
    - a folder in Cityscapes' layout, see `scan_cityscapes`;
    - a folder with ``images``, ``masks`` and ``classes.txt``, see `scan_pixel_folder`.

    Folders have the option ``exif``, see `find_turned`.

    Args:
        data: The DATA argument, the name of the source.
        split: The rule that says which images are held out where a folder has no validation part.

    Raises:
        DataError: There is no such source, or its contents cannot be used.
    """
    where, options = split_options(os.fspath(data))
    if where == "digits-scenes":
        return scenes_pixel_set(where, options)
    check_options(where, options, ("exif",))
    root = require_folder(Path(where))
    exif = choose_value(where, options, "exif", EXIF)
    if is_cityscapes(root):
        found = scan_cityscapes(root)
    else:
        found = scan_pixel_folder(root, split=split)
    found.turned, remarks = find_turned(found.train + found.val, exif)
    found.notes += [f"{where}: {line}" for line in remarks]
    return found


class SegmentationData(DataModule):
    """Cityscapes, folders of images and masks, or the embedded scenes; see `find_pixels`.

    A training batch is images (B, C, H, W) and classes (B, H, W); a batch that is evaluated is a list of images
    (C, H, W) in their own sizes and a list of classes (H, W). Classes are uint8, 255 where there is none. See
    `DataModule` for images and masks that cannot be used, for the order of an epoch, and for the attributes.

    Args:
        source: A source of `find_pixels`.
        crop_size: The height and width of training crops in pixels; by default what the source suggests, or the
            size of the first image up to 512.
        in_chans: The number of channels: 3 for RGB, 1 for grey.
        eval_batch_size: The number of images that a process evaluates at a time.
        scale: The smallest and the largest random factor on the size of a training image.
        interpolation: The filter of that resize: nearest, bilinear or bicubic; masks take the nearest pixel.
        max_category_ratio: The largest share of one class in a training crop, see `PixelAugmentation`.
        flip: The probability that a training image is mirrored; 0 where a mirror image is of another class, as
            that of a digit.
        photometric: Whether the colours of training images are distorted.
        spec: The description of a trained network's data, whose classes, size, normalisation and split replace
            those above.
        eval_split: The part that ``val_dataloader`` reads.
        loading: The arguments of `DataModule`: ``batch_size`` (by default 8), ``seed``, ``workers``, ``prefetch``
            (by default 2), ``strict``, ``val_fraction`` and ``split_seed``.

    Raises:
        DataError: The source cannot be used, has other classes than the network, or for training only masks from
            which nothing can be learnt, see `training_notes`.
    """

    task = "segmentation"
    usual_batch_size = 8
    usual_prefetch = 2
    collate = (collate_train, collate_lists)
    spec_class = SegmentationSpec
    spec: SegmentationSpec

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        crop_size: Sequence[int] | None = None,
        in_chans: int = 3,
        eval_batch_size: int = 1,
        scale: Sequence[float] = (0.5, 2.0),
        interpolation: str = "bilinear",
        max_category_ratio: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
        spec: SegmentationSpec | None = None,
        eval_split: EvalSplit = "val",
        **loading: "Unpack[Loading]",
    ) -> None:
        super().__init__(source, **loading)
        self._eval_batch_size = eval_batch_size
        self.found = find_pixels(source, split=SplitRule.of(spec, self.val_fraction, self.split_seed))
        if spec:
            require_classes(self.found, self.source, spec.class_names)
        self.report(BadImage(name, reason) for name, reason in self.found.bad.items())
        self.train_samples = self.found.train
        self.train_size = len(self.train_samples)
        self.eval_samples = self.choose_split(self.found.train, self.found.val, eval_split)
        if self.found.open_name is as_path:
            if not spec:
                self.found.notes += training_notes(survey(self.found, self.found.train), self.found)
            part = {"val": "validation", "train": "training", "all": "true"}[eval_split]
            self.found.notes += evaluation_notes(survey(self.found, self.eval_samples), self.found, part)
        self.spec = spec or SegmentationSpec(
            class_names=self.found.class_names,
            input_size=(in_chans, *self._crop_size(crop_size)),
            mean=IMAGENET_DEFAULT_MEAN if in_chans == 3 else (0.449,),
            std=IMAGENET_DEFAULT_STD if in_chans == 3 else (0.226,),
            colors=self.found.colors,
            interpolation=interpolation,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            fingerprint=self.found.fingerprint,
        )
        low, high = _pair("scale", scale)
        if not 0 < low <= high or not 0 <= flip <= 1 or not max_category_ratio > 0:
            raise DataError(
                "scale must be two numbers above 0, the smaller first, flip 0 to 1, max_category_ratio above 0; "
                f"got {low}, {high}, {flip} and {max_category_ratio}"
            )
        self.augmentation = PixelAugmentation(
            crop_size=(self.spec.input_size[1], self.spec.input_size[2]),
            scale=(low, high),
            max_category_ratio=max_category_ratio,
            flip=flip if self.found.may_flip else 0.0,
            photometric=photometric,
            interpolation=self.spec.interpolation,
        )
        self.root, self.fingerprint, self.notes = self.found.root, self.found.fingerprint, list(self.found.notes)
        if flip and not self.found.may_flip:
            self.notes.append(f"{self.source}: images are not flipped, a mirrored digit is none")

    def _crop_size(self, asked: Sequence[int] | None) -> tuple[int, int]:
        if asked is not None:
            height, width = _pair("crop_size", asked)
            if min(height, width) < 8 or height != int(height) or width != int(width):
                raise DataError(f"crop_size must be height and width, at least 8, got {list(asked)}")
            return int(height), int(width)
        if self.found.crop_size:
            return self.found.crop_size
        for name, _ in self.found.train:
            try:
                width, height = read_image(self.found.open_name(name), name=name).size
            except BadImageError:  # is reported when its turn comes
                continue
            return min(height, _LARGEST_CROP), min(width, _LARGEST_CROP)
        raise DataError(f"{self.source}: not one of its {len(self.found.train)} training images can be read")

    @property
    def eval_batch_size(self) -> int:
        """The number of images that a process evaluates at a time."""
        return self._eval_batch_size

    def train_dataset(self) -> "PixelDataset":
        """Return the training images and masks, augmented."""
        return PixelDataset(self.found, self.train_samples, self.spec, self.augmentation, self.seed)

    def eval_dataset(self) -> "PixelDataset":
        """Return the images and masks of the split that is evaluated, in order and in their own sizes."""
        return PixelDataset(self.found, self.eval_samples, self.spec)


class PixelDataset(SizedDataset[LoadedSample | BadImage]):
    """Reads images with their masks, checks and transforms them.

    Args:
        found: The set that the pairs belong to; it says how names are opened, and what the values of masks mean.
        pairs: The names of the images and of their masks.
        spec: The colour mode and the normalisation.
        augmentation: The augmentation for training; ``None`` leaves images and masks as they are.
        seed: The seed of the augmentation, which is drawn per (seed, index). An index may be ``epoch · len +
            index``, see `EpochSampler`.
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

    def __getitem__(self, index: int) -> LoadedSample | BadImage:
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
            return LoadedSample(self.spec.normalize(to_pixels(image)), to_pixels(mask)[0])
        seed_everything(self.seed, index)
        pixels, classes = self.augmentation(image, mask)
        return LoadedSample(self.spec.normalize(pixels), classes)


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2:
        raise DataError(f"{name} must be two numbers, got {list(values)}")
    return values[0], values[1]
