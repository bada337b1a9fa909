"""Annotated images as a torch data set whose bad ones become reports instead of exceptions."""

from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ctxvision.data.dataset import BadImage, LoadedSample, opened
from ctxvision.data.error import BadImageError
from ctxvision.data.images.reading import read_image

from .coco import Annotation, CocoImage, CocoSet
from .coco_masks import to_code, to_mask

Target: TypeAlias = dict[str, Any]


class DetectionDataset(Dataset[LoadedSample | BadImage]):
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
        image = _as_tensor(picture)
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
    flipped = dict(target)
    boxes = target["boxes"]
    width = image.shape[-1]
    flipped["boxes"] = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(-1)
    return image.flip(-1), flipped


def without_flat(target: Target) -> Target:
    """Leave out objects of whose boxes rounding has left nothing; reading has left out those that invite it."""
    boxes = target["boxes"]
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if kept.all():
        return target
    return {name: value[kept] if name in ("boxes", "labels", "masks") else value for name, value in target.items()}


def _as_tensor(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture))
    return (pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels).permute(2, 0, 1).contiguous()
