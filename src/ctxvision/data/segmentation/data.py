"""Images with masks of any source as a LightningDataModule."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader

from ctxvision.data.dataset import BadImage
from ctxvision.data.epoch_data import EpochData
from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.images.reading import read_image
from ctxvision.data.images.turned import EXIF, find_turned
from ctxvision.data.options import check_options, choose_value, split_options

from .augmentation import PixelAugmentation
from .cityscapes import is_cityscapes, scan_cityscapes
from .dataset import PixelBatch, PixelDataset, collate_pixels_eval, collate_pixels_train
from .scenes import scenes_pixel_set
from .source import PixelSet, as_path, require_classes, scan_pixel_folder
from .spec import SegmentationSpec
from .survey import evaluation_notes, survey, training_notes

_LARGEST_CROP = 512  # of images whose source says nothing


def find_pixels(data: str | os.PathLike[str], *, val_fraction: float = 0.2, split_seed: int = 0) -> PixelSet:
    """Find out what a source of images with masks holds.

    - ``digits-scenes``: the embedded scenes; options ``train``, ``val`` (how many), ``size`` and ``seed``;
    - a folder in Cityscapes' layout, see `scan_cityscapes`;
    - a folder with ``images``, ``masks`` and ``classes.txt``, see `scan_pixel_folder`.

    Folders have the option ``exif``, see `find_turned`.

    Args:
        data: the source.
        val_fraction: share to hold out where a folder has no validation part.
        split_seed: of that choice.

    Raises:
        DataError: no such source, or its contents cannot be used.
    """
    where, options = split_options(os.fspath(data))
    if where == "digits-scenes":
        return scenes_pixel_set(where, options)
    check_options(where, options, ("exif",))
    root = Path(where)
    if not root.is_dir():
        raise DataError(f"{where}: {'not a folder' if root.exists() else 'no such folder'}")
    exif = choose_value(where, options, "exif", EXIF)
    if is_cityscapes(root):
        found = scan_cityscapes(root)
    else:
        found = scan_pixel_folder(root, val_fraction=val_fraction, split_seed=split_seed)
    found.turned, remarks = find_turned(found.train + found.val, exif)
    found.notes += [f"{where}: {line}" for line in remarks]
    return found


class SegmentationData(EpochData):
    """Cityscapes, folders of images and masks, or the embedded scenes; see `find_pixels`.

    Images or masks that cannot be used are logged once, collected in ``bad_images`` and left out: of evaluation
    counts altogether, while in training other images of the batch take their place. An epoch depends on the seed
    and its number alone, not on the workers; see `EpochSampler`.

    Training gives images (B, C, H, W) with classes (B, H, W); evaluation lists of images (C, H, W) in their own
    sizes with classes (H, W). Classes are uint8, 255 where there is none.

    Args:
        source: see `find_pixels`.
        crop_size: (H, W) of training crops; by default what the source suggests, or the size of the first image
            up to 512.
        in_chans: 3 for RGB, 1 for grey.
        batch_size: per process.
        eval_batch_size: images at a time in evaluation.
        scale: smallest and largest random factor on the size of a training image.
        max_category_ratio: largest share of one class in a training crop, see `PixelAugmentation`.
        flip: probability; never where a mirror image is of another class, as of digits.
        photometric: whether colours of training images are distorted.
        val_fraction: share held out where there is no validation part.
        split_seed: of that choice.
        seed: of shuffling and augmentation.
        workers: processes that decode; 0 decodes in the main process.
        prefetch: batches that each worker keeps ready.
        strict: raise at the first image or mask that cannot be used.
        spec: of a trained network: its classes, size, normalisation and split replace those above.
        eval_split: what ``val_dataloader`` reads.

    Attributes:
        spec: what goes into the checkpoint.
        notes: what the user should know about the source, one line each.
        bad_images: reason by name, of this process.

    Raises:
        DataError: the source cannot be used, has other classes than the network, or for training only masks from
            which nothing can be learnt, see `training_notes`.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        crop_size: Sequence[int] | None = None,
        in_chans: int = 3,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        scale: Sequence[float] = (0.5, 2.0),
        max_category_ratio: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        strict: bool = False,
        spec: SegmentationSpec | None = None,
        eval_split: Literal["val", "train", "all"] = "val",
    ) -> None:
        super().__init__()
        self.source = os.fspath(source)
        self.found = find_pixels(
            source,
            val_fraction=spec.val_fraction if spec else val_fraction,
            split_seed=spec.split_seed if spec else split_seed,
        )
        if spec:
            require_classes(self.found, self.source, spec.class_names)
        self.strict = strict
        for name, reason in self.found.bad.items():
            self.report([BadImage(name, reason)])
        samples = {"val": self.found.val, "train": self.found.train, "all": self.found.train + self.found.val}
        self.eval_samples = samples[eval_split]
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
            val_fraction=val_fraction,
            split_seed=split_seed,
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
        )
        self.root, self.fingerprint, self.notes = self.found.root, self.found.fingerprint, list(self.found.notes)
        if flip and not self.found.may_flip:
            self.notes.append(f"{self.source}: images are not flipped, a mirrored digit is none")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.workers, self.prefetch, self.seed = workers, prefetch, seed
        self.train_samples = self.found.train
        self.train_size = len(self.train_samples)

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

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented; what does not fill an optimiser step is left out, see `batches`."""
        dataset = PixelDataset(self.found, self.train_samples, self.spec, self.augmentation, self.seed)
        return self.loader(
            dataset, sampler=self.train_order(), batch_size=self.batch_size, collate_fn=collate_pixels_train
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image of the split exactly once, however many processes share it."""
        dataset = PixelDataset(self.found, self.eval_samples, self.spec)
        return self.loader(
            dataset,
            sampler=self.eval_order(len(dataset)),
            batch_size=self.eval_batch_size,
            collate_fn=collate_pixels_eval,
        )

    def on_after_batch_transfer(self, batch: PixelBatch | Any, dataloader_idx: int) -> tuple[Any, Any] | Any:
        """Take the reports of bad images out of a batch: images and masks remain."""
        if not isinstance(batch, PixelBatch):
            return batch
        self.report(batch.bad)
        return batch.images, batch.masks


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2:
        raise DataError(f"{name} must be two numbers, got {list(values)}")
    return values[0], values[1]
