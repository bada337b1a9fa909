"""Annotated images of any source as a LightningDataModule."""

import os
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader

from ctxvision.data.contents import quoted
from ctxvision.data.epoch_data import EpochData
from ctxvision.data.error import DataError
from ctxvision.data.sampler import resume

from .batches import AspectBatches
from .coco import CocoSet
from .dataset import DetectionBatch, DetectionDataset, Target, collate_detection
from .source import find_detection
from .spec import DetectionSpec


class DetectionData(EpochData):
    """Images with boxes and, on request, masks: COCO's layout, single annotation files, or the embedded scenes.

    Images that cannot be decoded are logged once, collected in ``bad_images`` and left out. An epoch depends on
    the seed and its number alone, not on the workers; see `AspectBatches`. A batch is a list of images (C, H, W)
    in [0, 1] and a list of targets, see `DetectionDataset`.

    Args:
        source: see `find_detection`.
        masks: objects need masks, and targets have them.
        in_chans: 3 for RGB, 1 for grey.
        batch_size: per process.
        flip: probability that a training image is mirrored; never where `DetectionSource.may_flip` says no.
        empty_images: whether images without objects are trained on.
        val_fraction: share of the images held out of a single annotation file.
        split_seed: of that choice.
        seed: of shuffling and augmentation.
        workers: processes that decode; 0 decodes in the main process.
        prefetch: batches that each worker keeps ready.
        strict: raise at the first image or object that cannot be used.
        spec: of a trained detector: its classes and split replace those above.
        eval_split: what ``val_dataloader`` reads.
        train: whether there will be training; if not, only the part of ``eval_split`` is read.

    Attributes:
        spec: what goes into the checkpoint.
        notes: what the user should know about the source, one line each.
        bad_images: reason by name, of this process.

    Raises:
        DataError: the source cannot be used, or has other classes than the detector.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        masks: bool = False,
        in_chans: int = 3,
        batch_size: int = 16,
        flip: float = 0.5,
        empty_images: bool = True,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        strict: bool = False,
        spec: DetectionSpec | None = None,
        eval_split: Literal["val", "train"] = "val",
        train: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= flip <= 1:
            raise DataError(f"flip is a probability, from 0 to 1, got {flip}")
        found = find_detection(
            source,
            masks=masks,
            strict=strict,
            val_fraction=spec.val_fraction if spec else val_fraction,
            split_seed=spec.split_seed if spec else split_seed,
        )
        self.source, self.root = os.fspath(source), found.root
        self.image_size = found.image_size
        self.batch_size, self.workers, self.prefetch = batch_size, workers, prefetch
        self.seed, self.strict, self.masks = seed, strict, masks
        self.flip = flip if found.may_flip else 0.0
        self.eval_samples = found.read(eval_split)
        self.train_samples = found.read("train") if train else self.eval_samples
        self.fingerprint = self.eval_samples.fingerprint
        if not len(self.eval_samples):
            raise DataError(f"{source}: no images to {'validate' if eval_split == 'val' else 'evaluate'} on")
        self.notes = list(dict.fromkeys([*self.train_samples.notes, *self.eval_samples.notes]))
        _require_same_classes(self.train_samples, self.eval_samples, f"{source}: the validation part")
        counts = self.train_samples.counts() if train else []
        if train:
            self._check_objects(counts, empty_images)
        self.train_size = len(self.train_samples)
        self.spec = spec or DetectionSpec(
            class_names=self.eval_samples.class_names,
            category_ids=self.eval_samples.category_ids,
            in_chans=in_chans,
            val_fraction=val_fraction,
            split_seed=split_seed,
            fingerprint=self.fingerprint,
            train_counts=tuple(counts),
        )
        if self.spec.class_names != self.eval_samples.class_names:
            raise DataError(
                f"{source}: the detector's classes are {quoted(self.spec.class_names)}, "
                f"not {quoted(self.eval_samples.class_names)}"
            )

    def _check_objects(self, counts: list[int], empty_images: bool) -> None:
        samples = self.train_samples
        if not sum(counts):
            crowds = samples.crowds()
            hint = f"; all {crowds} are crowds (iscrowd 1), which #crowd=single takes as single objects"
            raise DataError(f"{self.source}: no objects to train on{hint if crowds else ''}")
        unseen = [name for name, count in zip(samples.class_names, counts, strict=True) if not count]
        if unseen:
            self.notes.append(f"{self.source}: no training objects of {quoted(unseen)}")
        if not empty_images:
            whole = len(samples)
            self.train_samples = samples.choose(
                lambda index, _: any(not a.crowd for a in samples.annotations[index])
            )
            left_out = whole - len(self.train_samples)
            if left_out:
                self.notes.append(f"{self.source}: {left_out} images without objects are not trained on")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, images of one orientation together; what does not fill an optimiser step is left out."""
        dataset = DetectionDataset(
            self.train_samples,
            self.spec.color_mode,
            masks=self.masks,
            train=True,
            flip=self.flip,
            seed=self.seed,
        )
        batches = self._train_batches()
        if not len(batches):
            raise DataError(
                f"{self.source}: {len(dataset)} training images are too few for {self.place()[1]} processes"
            )
        if self.trainer:
            resume(batches, self.trainer, 1, len(batches))
        return self.loader(dataset, batch_sampler=batches, collate_fn=collate_detection)

    @property
    def batches_per_epoch(self) -> int:
        """Number of training batches of one process."""
        return len(self._train_batches())

    def _train_batches(self) -> AspectBatches:
        rank, world_size = self.place()
        ratios = [image.width / image.height for image in self.train_samples.images]
        return AspectBatches(
            ratios,
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            accumulate=self.accumulate,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image of the split exactly once, however many processes share it."""
        dataset = DetectionDataset(self.eval_samples, self.spec.color_mode, masks=self.masks)
        return self.loader(
            dataset,
            sampler=self.eval_order(len(dataset)),
            batch_size=self.batch_size,
            collate_fn=collate_detection,
        )

    def on_after_batch_transfer(
        self, batch: DetectionBatch | Any, dataloader_idx: int
    ) -> tuple[list[Tensor], list[Target]] | Any:
        """Take the reports of bad images out of a batch, and make the images floats in [0, 1]."""
        if not isinstance(batch, DetectionBatch):
            return batch
        self.report(batch.bad)
        return [image.float() / 255 for image in batch.images], batch.targets


def _require_same_classes(train: CocoSet, val: CocoSet, where: str) -> None:
    pairs = [tuple(zip(part.category_ids, part.class_names, strict=True)) for part in (train, val)]
    if pairs[0] != pairs[1]:
        differ = [f"{number} {name}" for number, name in set(pairs[0]) ^ set(pairs[1])]
        raise DataError(f"{where} has other categories than the training part: {quoted(sorted(differ))}")
