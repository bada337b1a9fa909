"""Images with objects, of any source, as a LightningDataModule."""

import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import horizontal_flip_bounding_boxes, pil_to_tensor
from torchvision.tv_tensors import BoundingBoxFormat

from ctxvision.data.dataset import BadImage, LoadedSample, SizedDataset, collate_lists, opened
from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.images.reading import read_image
from ctxvision.data.labelled import SplitRule, quoted
from ctxvision.data.module import DataModule, Loading
from ctxvision.data.sampler import AspectBatches, resume
from ctxvision.data.spec import Spec

from .coco import Annotation, CocoImage, CocoSet
from .coco_values import to_code, to_mask
from .source import find_detection

if TYPE_CHECKING:
    from typing import Unpack


@dataclass(frozen=True)
class DetectionSpec(Spec):
    """The classes of a detector and how its images were split; class number ``i`` has the label ``i + 1``.

    Attributes:
        category_ids: The ids of the classes in the annotation file; results are written with these.
        in_chans: The number of channels of an image: 3 for RGB, 1 for grey.
        train_counts: The number of training objects of each class; empty where it was not noted.
    """

    category_ids: tuple[int, ...]
    _: KW_ONLY
    in_chans: int = 3
    train_counts: tuple[int, ...] = ()

    def validate(self) -> None:
        """Check that each class has an id, and that images have 1 or 3 channels."""
        if not self.class_names or len(self.category_ids) != len(self.class_names):
            raise DataError(f"{len(self.class_names)} classes need as many category ids, got {self.category_ids}")
        if self.in_chans not in (1, 3):
            raise DataError(f"images must have 1 or 3 channels, got {self.in_chans}")

    @property
    def channels(self) -> int:
        """The number of channels of an image: 3 for RGB, 1 for grey."""
        return self.in_chans


Target: TypeAlias = dict[str, Any]


class DetectionDataset(SizedDataset[LoadedSample | BadImage]):
    """Reads images and makes targets of their annotations.

    For training a target holds ``boxes`` (N, 4), ``labels`` (N,) from 1, and with masks ``masks`` (N, H, W) uint8;
    crowds are left out and boxes end at the border of the image. For evaluation it holds ``truth``, a dictionary
    per object as the metric wants it: ``bbox`` (x, y, width, height), ``label``, ``area``, ``iscrowd`` and, with
    masks, ``segmentation``. Both hold ``image_id`` and ``path``.

    Args:
        samples: The annotated images.
        color_mode: The mode of PIL's that an image is converted to.
        masks: Whether targets have masks.
        train: Whether targets are those for training; else they are those for evaluation.
        flip: The probability that a training image is mirrored.
        seed: The seed of the mirroring, which is drawn per (seed, index); an index may be ``epoch · len + index``,
            see `AspectBatches`.
    """

    def __init__(
        self,
        samples: CocoSet,
        color_mode: str = "RGB",
        *,
        masks: bool = False,
        train: bool = False,
        flip: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.samples = samples
        self.color_mode = color_mode
        self.masks, self.train = masks, train
        self.flip, self.seed = flip, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> LoadedSample | BadImage:
        place = index % len(self)
        listed = self.samples.images[place]
        try:
            picture = read_image(
                opened(self.samples.open_image, listed.name),
                self.color_mode,
                listed.name,
                size=(listed.width, listed.height),
                turned=self.samples.turned,
            )
        except BadImageError as error:
            return BadImage(error.path, error.reason)
        if picture.size != (listed.width, listed.height):
            found, expected = f"{picture.width} × {picture.height}", f"{listed.width} × {listed.height}"
            return BadImage(listed.name, f"it is {found} pixels large, its annotations are for {expected}")
        image = pil_to_tensor(picture).contiguous()
        annotations = self.samples.annotations[place]
        common = {"image_id": listed.id, "path": listed.name}
        if not self.train:
            return LoadedSample(image, common | {"truth": self._truth(annotations, listed)})
        target = self._target([a for a in annotations if not a.crowd], listed)
        if self.flip and np.random.default_rng((self.seed, index)).random() < self.flip:
            image, target = flip_horizontally(image, target)
        return LoadedSample(image, common | without_flat(target))

    def _target(self, annotations: list[Annotation], image: CocoImage) -> Target:
        boxes = torch.tensor([a.box for a in annotations], dtype=torch.float32, device="cpu").reshape(-1, 4)
        boxes[:, 0::2].clamp_(0, image.width)
        boxes[:, 1::2].clamp_(0, image.height)
        labels = torch.tensor([a.label for a in annotations], dtype=torch.int64, device="cpu")
        target = {"boxes": boxes, "labels": labels}
        if self.masks:
            masks = [to_mask(a.segmentation, image.height, image.width) for a in annotations]
            stacked = np.stack(masks) if masks else np.zeros((0, image.height, image.width), dtype=np.uint8)
            target["masks"] = torch.from_numpy(stacked)
        return target

    def _truth(self, annotations: list[Annotation], image: CocoImage) -> list[dict[str, Any]]:
        truth = []
        for a in annotations:
            x, y = a.box[:2]
            row: dict[str, Any] = {"label": a.label, "bbox": [x, y, a.box[2] - x, a.box[3] - y], "area": a.area}
            row["iscrowd"] = int(a.crowd)
            if self.masks:
                row["segmentation"] = to_code(a.segmentation, image.height, image.width)
            truth.append(row)
        return truth


def flip_horizontally(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror an image (C, H, W) and its target's boxes (N, 4) and masks (N, H, W)."""
    boxes = horizontal_flip_bounding_boxes(target["boxes"], BoundingBoxFormat.XYXY, image.shape[-2:])
    masks = {"masks": target["masks"].flip(-1)} if "masks" in target else {}
    return image.flip(-1), {**target, "boxes": boxes, **masks}


def without_flat(target: Target) -> Target:
    """Leave out objects of whose boxes rounding has left nothing; reading has left out those that invite it."""
    boxes = target["boxes"]
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if kept.all():
        return target
    return {name: value[kept] if name in ("boxes", "labels", "masks") else value for name, value in target.items()}


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
        spec: The description of a trained detector's data, whose classes and split replace those above.
        eval_split: The part that ``val_dataloader`` reads.
        train: Whether there will be training; if not, only the part of ``eval_split`` is read.
        loading: The arguments of `DataModule`: ``batch_size`` (by default 16), ``seed``, ``workers``, ``prefetch``
            (by default 2), ``strict``, ``val_fraction`` and ``split_seed``.

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
            split=SplitRule.of(spec, self.val_fraction, self.split_seed),
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
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
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
            if crowds:
                why = [f"all {crowds} are crowds (iscrowd 1), which #crowd=single takes as single objects"]
            elif self.masks and samples.notes:
                why = [*samples.notes, "a detector without masks needs boxes alone: --detector faster_rcnn"]
            else:
                why = samples.notes
            raise DataError("; ".join([f"{self.source}: no objects to train on", *why]))
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
