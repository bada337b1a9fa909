"""Images of any source as a LightningDataModule."""

import os
from collections.abc import Sequence
from typing import Any, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader

from ctxvision.data.dataset import Batch, ImageDataset, collate_eval, collate_train
from ctxvision.data.epoch_data import EpochData
from ctxvision.data.error import DataError
from ctxvision.data.source import find_images
from ctxvision.data.spec import DataSpec


class ImageData(EpochData):
    """Folders, tables, shards and more, with a validation part or split reproducibly; see `find_images`.

    Images that cannot be decoded are logged once, collected in ``bad_images`` and left out: of evaluation
    counts altogether, while in training other images of the batch take their place.

    An epoch depends on the seed and its number alone, not on the workers; see `EpochSampler`.

    Args:
        source: a folder, ``.csv``, ``.tar``, ``hf:NAME``, …
        image_size: height and width of the network's input; by default that of the images where all are
            alike and small (CIFAR: 32), else 224.
        in_chans: 3 for RGB, 1 for grey.
        batch_size: per process.
        val_fraction: share held out where there is no validation part.
        split_seed: of that choice.
        seed: of shuffling and augmentation.
        repeats: how often a training image comes up in a row, each time augmented differently; an epoch
            keeps its length and so sees fewer images (repeated augmentation, see `EpochSampler`).
        workers: processes that decode; 0 decodes in the main process.
        prefetch: batches that each worker keeps ready.
        strict: raise at the first sample that cannot be used.
        auto_augment: timm's policy string for training.
        color_jitter: strength, for training.
        random_erasing: probability, for training.
        crop_scale: smallest share of an image that a training crop covers.
        class_names: the classes in another order, that of a run which began with it.
        spec: of a trained network: its classes, input size and normalisation replace all of the above.
        eval_split: what ``val_dataloader`` reads.

    Attributes:
        spec: what goes into the checkpoint.
        notes: what the user should know about the source, one line each.
        bad_images: reason by name, of this process.

    Raises:
        DataError: the source cannot be used, or has classes that the network lacks.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        in_chans: int = 3,
        batch_size: int = 128,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        repeats: int = 1,
        workers: int = 0,
        prefetch: int = 4,
        strict: bool = False,
        auto_augment: str | None = None,
        color_jitter: float = 0.0,
        random_erasing: float = 0.0,
        crop_scale: float = 0.08,
        class_names: Sequence[str] | None = None,
        spec: DataSpec | None = None,
        eval_split: Literal["val", "train", "all"] = "val",
    ) -> None:
        super().__init__()
        contents = find_images(
            source,
            val_fraction=spec.val_fraction if spec else val_fraction,
            split_seed=spec.split_seed if spec else split_seed,
            class_names=spec.class_names if spec else class_names,
            strict=strict,
        )
        size = image_size or contents.image_size or 224
        self.spec = spec or DataSpec(
            class_names=contents.class_names,
            input_size=(in_chans, size, size),
            mean=IMAGENET_DEFAULT_MEAN if in_chans == 3 else (0.449,),
            std=IMAGENET_DEFAULT_STD if in_chans == 3 else (0.226,),
            crop_pct=1.0 if contents.image_size else 0.875,  # small images are centred already
            val_fraction=val_fraction,
            split_seed=split_seed,
            fingerprint=contents.fingerprint,
            train_counts=contents.train_counts,
        )
        self.source = os.fspath(source)
        self.root = contents.root
        self.fingerprint = contents.fingerprint
        self.notes = contents.notes
        self.batch_size = batch_size
        self.workers = workers
        self.prefetch = prefetch
        self.strict = strict
        self.seed = seed
        self.repeats = repeats
        self.train_samples = contents.train
        self.train_size = len(contents.train)
        splits = {"val": contents.val, "train": contents.train, "all": contents.train + contents.val}
        self.eval_samples = splits[eval_split]
        if not self.eval_samples:
            raise DataError(
                f"{source}: no images to {'validate' if eval_split == 'val' else 'evaluate'} on; every class "
                "needs two or more, or add a validation part"
            )
        self._open_image = contents.open_image
        self._augmentation: dict[str, Any] = {
            "auto_augment": auto_augment,
            "color_jitter": color_jitter,
            "random_erasing": random_erasing,
            "crop_scale": crop_scale,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented; what does not fill an optimiser step is left out, see `batches`."""
        dataset = ImageDataset(
            self.train_samples,
            self.spec.train_transform(**self._augmentation),
            self.spec.color_mode,
            seed=self.seed,
            open_image=self._open_image,
        )
        return self.loader(
            dataset, sampler=self.train_order(), batch_size=self.batch_size, collate_fn=collate_train
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image of the split exactly once, however many processes share it."""
        dataset = ImageDataset(
            self.eval_samples, self.spec.eval_transform(), self.spec.color_mode, open_image=self._open_image
        )
        return self.loader(
            dataset,
            sampler=self.eval_order(len(dataset)),
            batch_size=self.batch_size,
            collate_fn=collate_eval,
        )

    def on_after_batch_transfer(self, batch: Batch | Any, dataloader_idx: int) -> tuple[Tensor, Tensor] | Any:
        """Take the reports of bad images out of a batch: images (B, C, H, W) and classes (B,) remain."""
        if not isinstance(batch, Batch):
            return batch
        self.report(batch.bad)
        return batch.images, batch.targets
