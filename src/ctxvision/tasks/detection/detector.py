"""A detector of torchvision's with clear errors, detections that do not depend on the batch, and its cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.features import FeatureBackbone

from .cascade import CascadeRoIHeads
from .regions import make_transform

Target = Mapping[str, Tensor]


class Detector(nn.Module):
    """One of torchvision's detection networks, called as torchvision calls them.

    In evaluation images are run together only where their padded sizes agree, so that an image's detections
    do not depend on the images beside it: convolutions and norms would see the padding.

    Args:
        network: A ``GeneralizedRCNN`` or ``RetinaNet`` of torchvision.
        num_classes: The number of classes without the background.
        in_chans: The number of channels of the images.
        has_masks: Whether the network predicts masks and is trained by them.
        has_background: Whether the network's class 0 is the background; where it is not, as in RetinaNet, its
            classes begin at 0 and those of this module at 1 all the same.

    Shape:
        The input is a list of images ``(in_chans, H, W)`` from 0 to 1, of any sizes, and in training a list of
        targets, dictionaries with "boxes" ``(n, 4)``, absolute x1, y1, x2, y2; "labels" ``(n,)``, 1 to
        ``num_classes``; with masks "masks" ``(n, H, W)``, 0 or 1. The output is in training a dictionary of
        losses, whose sum is trained, and in evaluation a list of dictionaries "boxes", "labels", "scores", sorted
        by score, and "masks" ``(n, 1, H, W)``, probabilities.

    Raises:
        TaskError: The images or targets do not fit.
    """

    def __init__(
        self,
        network: GeneralizedRCNN | RetinaNet,
        *,
        num_classes: int,
        in_chans: int = 3,
        has_masks: bool = False,
        has_background: bool = True,
    ) -> None:
        super().__init__()
        self.network: GeneralizedRCNN | RetinaNet = network
        self.num_classes, self.in_chans = num_classes, in_chans
        self.has_masks, self.has_background = has_masks, has_background
        network.transform.register_forward_hook(_without_flat)

    def resize_by(self, interpolation: str) -> None:
        """Resize images with another filter from now on, see `make_transform`.

        Raises:
            TaskError: The filter is unknown.
        """
        t = self.network.transform
        transform = make_transform(t.min_size, t.max_size, t.image_mean, t.image_std, interpolation)
        transform.register_forward_hook(_without_flat)
        self.network.transform = transform.train(t.training)

    @property
    def features(self) -> FeatureBackbone:
        """The backbone, whose weights can come from a classifier."""
        found: FeatureBackbone = self.network.backbone.features
        return found

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Return losses in training, detections in evaluation, of images (C, H, W); the class describes them."""
        self._check_images(images)
        if not self.training:
            return self._detect(images)
        if targets is None or len(targets) != len(images):
            found = "none" if targets is None else len(targets)
            raise TaskError(f"training needs a target for each image: {len(images)} images, targets: {found}")
        for index, (image, target) in enumerate(zip(images, targets, strict=True)):
            self._check_target(f"target {index}", target, image)
        own = [dict(target) for target in targets]
        if not self.has_background:
            own = [{**target, "labels": target["labels"] - 1} for target in own]
        return self.network(list(images), own)

    def _detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._padded_size(image), []).append(index)
        detections: dict[int, dict[str, Tensor]] = {}
        for group in groups.values():
            found = self.network([images[index] for index in group])
            detections |= zip(group, found, strict=True)
        if not self.has_background:
            for detection in detections.values():
                detection["labels"] = detection["labels"] + 1
        return [detections[index] for index in range(len(images))]

    def _padded_size(self, image: Tensor) -> tuple[int, ...]:
        transform = self.network.transform
        resized, _ = transform.resize(image.new_empty(image.shape, device="meta"))
        step = transform.size_divisible
        return tuple(math.ceil(side / step) * step for side in resized.shape[-2:])

    def _check_images(self, images: Sequence[Tensor]) -> None:
        if not len(images):
            raise TaskError("no images: a detector needs at least one")
        for index, image in enumerate(images):
            if image.dim() != 3 or image.shape[0] != self.in_chans or not image.numel():
                raise TaskError(
                    f"image {index} has shape {tuple(image.shape)}; this detector takes ({self.in_chans}, H, W)"
                )
            if not image.is_floating_point():
                raise TaskError(f"image {index} is {image.dtype}; scale it to floating point from 0 to 1")

    def _check_target(self, name: str, target: Target, image: Tensor) -> None:
        needed = ("boxes", "labels", "masks") if self.has_masks else ("boxes", "labels")
        missing = [key for key in needed if key not in target]
        if missing:
            raise TaskError(f"{name} has no {missing[0]!r}; this detector needs {', '.join(needed)}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise TaskError(
                f"{name}: boxes must be floating point of shape (n, 4), got {boxes.dtype} {tuple(boxes.shape)}"
            )
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise TaskError(
                f"{name}: labels must be int64 of shape ({len(boxes)},), got {labels.dtype} {tuple(labels.shape)}"
            )
        if self.has_masks and target["masks"].shape != (len(boxes), *image.shape[1:]):
            expected = (len(boxes), *image.shape[1:])
            raise TaskError(f"{name}: masks must have shape {expected}, got {tuple(target['masks'].shape)}")
        if not len(boxes):
            return
        outside = (labels < 1) | (labels > self.num_classes)
        # written so that NaN is refused too
        flat = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1))
        if (outside | flat).any():
            if outside.any():
                raise TaskError(f"{name}: labels must be 1 to {self.num_classes}, got {labels[outside][0].item()}")
            raise TaskError(
                f"{name}: boxes must be finite and have x1 < x2 and y1 < y2, got {boxes[flat][0].tolist()}"
            )


class PyramidBackbone(nn.Module):
    """A backbone with a feature pyramid on it, from images (B, C, H, W).

    Args:
        features: The backbone.
        fpn: The pyramid, which takes and returns feature maps by name.
        out_channels: The number of channels of every map of the pyramid.
    """

    def __init__(self, features: FeatureBackbone, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.features, self.fpn, self.out_channels = features, fpn, out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pyramid (B, out_channels, H_i, W_i) by names, finest map first."""
        maps = {str(i): feature for i, feature in enumerate(self.features(images))}
        pyramid: dict[str, Tensor] = self.fpn(maps)
        return pyramid


def _without_flat(transform: nn.Module, args: Any, output: Any) -> Any:
    """Leave out objects of whose boxes the resize has left nothing, on which torchvision would stop."""
    images, targets = output
    if targets is None:
        return output
    kept = [(target["boxes"][:, 2:] > target["boxes"][:, :2]).all(1) for target in targets]
    own = ("boxes", "labels", "masks")
    return images, [
        {name: value[some] if name in own else value for name, value in target.items()}
        for target, some in zip(targets, kept, strict=True)
    ]


def count_detector_macs(
    detector: Detector, size: Sequence[int] = (800, 1280), *, proposals: int = 1000, masks: int = 100
) -> int:
    """Return the multiply-adds of one image, counted as in the detectors' papers (MMDetection's ``get_flops``).

    Counted are backbone, FPN, and the dense heads over the whole image; the box heads over 1000 RoIs, whatever the
    region proposal network finds, and the mask head over 100. Resizing, RoIAlign and NMS are not. What a
    multiply-add is, `ctxvision.models.count_macs` says. On ``torch.device("meta")`` it takes no time.

    Args:
        detector: A detector that `build_detector` made.
        size: The height and width of the resized image in pixels; the papers that write 800 x 1333 have 800 x
            1280.
        proposals: The number of RoIs of the box head.
        masks: The number of RoIs of the mask head.
    """
    parameter, network = next(detector.parameters()), detector.network

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)

    with evaluation_mode(detector), FlopCounterMode(display=False) as counter:
        pyramid = list(network.backbone(zeros(1, detector.in_chans, *size)).values())
        width = pyramid[0].shape[1]
        if not detector.has_background:
            network.head(pyramid)
        else:
            network.rpn.head(pyramid)
            heads = network.roi_heads
            for stage in heads.in_order() if isinstance(heads, CascadeRoIHeads) else [heads]:
                stage.box_predictor(stage.box_head(zeros(proposals, width, 7, 7)))
                if stage.has_mask():
                    stage.mask_predictor(stage.mask_head(zeros(masks, width, 14, 14)))
    return int(counter.get_total_flops()) // 2
