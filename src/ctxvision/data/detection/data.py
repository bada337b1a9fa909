"""Images with objects, of any source, as a LightningDataModule."""

import os
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader

from ctxvision.data.dataset import collate_lists
from ctxvision.data.error import DataError
from ctxvision.data.labelled import SplitRule, quoted
from ctxvision.data.module import DataModule, Loading
from ctxvision.data.sampler import AspectBatches, resume

from .coco import CocoSet
from .dataset import DetectionDataset
from .source import find_detection
from .spec import DetectionSpec

if TYPE_CHECKING:
    from typing import Unpack


class DetectionData(DataModule):
    """Images with boxes and, on request, masks: COCO's layout, single annotation files, or the embedded scenes.

    A batch is a list of images (C, H, W) in [0, 1] and a list of targets, see `DetectionDataset`. Training batches
    hold images of one orientation, see `AspectBatches`. See `DataModule` for bad images and for the attributes.

    Args:
        source: A source of `find_detection`.
        masks: Whether objects need masks, and targets have them.
        in_chans: The number of channels: 3 for RGB, 1 for grey.
        flip: The probability that a training image is mirrored; never where `DetectionSource.may_flip` says no.
        empty_images: Whether images without objects are trained on.
        val_fraction: The share of the images to hold out of a single annotation file.
        split_seed: The seed that chooses which images are held out.
        spec: The description of a trained detector's data, whose classes and split replace those above.
        eval_split: The part that ``val_dataloader`` reads.
        train: Whether there will be training; if not, only the part of ``eval_split`` is read.
        loading: The arguments of `DataModule`: ``batch_size`` (by default 16), ``seed``, ``workers``, ``prefetch``
            (by default 2) and ``strict``.

    Raises:
        DataError: The source cannot be used, or has other classes than the detector.
    """

    task = "detection"
    usual_batch_size = 16
    usual_prefetch = 2
    collate = (collate_lists, collate_lists)
    spec_class = DetectionSpec
    spec: DetectionSpec

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        masks: bool = False,
        in_chans: int = 3,
        flip: float = 0.5,
        empty_images: bool = True,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        spec: DetectionSpec | None = None,
        eval_split: Literal["val", "train"] = "val",
        train: bool = True,
        **loading: "Unpack[Loading]",
    ) -> None:
        super().__init__(source, **loading)
        if not 0 <= flip <= 1:
            raise DataError(f"flip is a probability, from 0 to 1, got {flip}")
        found = find_detection(
            source,
            masks=masks,
            strict=self.strict,
            split=SplitRule.of(spec, val_fraction, split_seed),
        )
        self.root, self.image_size, self.masks = found.root, found.image_size, masks
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

    def train_dataset(self) -> DetectionDataset:
        """Return the training images, some of them mirrored."""
        return DetectionDataset(
            self.train_samples, self.spec.color_mode, masks=self.masks, train=True, flip=self.flip, seed=self.seed
        )

    def eval_dataset(self) -> DetectionDataset:
        """Return the images of the split that is evaluated, in order."""
        return DetectionDataset(self.eval_samples, self.spec.color_mode, masks=self.masks)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, shuffled, images of one orientation together."""
        return self._loader(self.train_dataset(), batch_sampler=self.train_order(), collate_fn=self.collate[0])

    def train_order(self) -> AspectBatches:
        """Return the order of the training batches, from where a resumed run goes on.

        Raises:
            DataError: There are fewer batches than processes.
        """
        order = self._train_batches()
        self.require_enough(len(order))
        if self.trainer:
            resume(order, self.trainer, 1, len(order))
        return order

    @property
    def batches_per_epoch(self) -> int:
        """The number of training batches of one process."""
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

    def to_input(self, images: Tensor | list[Tensor]) -> list[Tensor]:
        """Make images (C, H, W) uint8 floats in [0, 1]."""
        return [image.float() / 255 for image in images]


def _require_same_classes(train: CocoSet, val: CocoSet, where: str) -> None:
    pairs = [tuple(zip(part.category_ids, part.class_names, strict=True)) for part in (train, val)]
    if pairs[0] != pairs[1]:
        differ = [f"{number} {name}" for number, name in set(pairs[0]) ^ set(pairs[1])]
        raise DataError(f"{where} has other categories than the training part: {quoted(sorted(differ))}")
