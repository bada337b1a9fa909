"""How a detector resizes images, and how it reads the pyramid inside a box."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from ctxvision.tasks.error import TaskError

Interpolation = Literal["bilinear", "bicubic"]
Target = dict[str, Tensor]


def make_transform(
    min_size: int | Sequence[int],
    max_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
) -> GeneralizedRCNNTransform:
    """Build what resizes, normalises and pads images, and brings boxes and masks back: torchvision's transform.

    Args:
        min_size: The shorter side of the resized image in pixels; of several, see `build_detector`.
        max_size: The largest length of the longer side in pixels.
        mean: The mean of each channel.
        std: The standard deviation of each channel.
        interpolation: The filter of the resize; neither widens where it makes an image smaller (no antialiasing).

    Raises:
        TaskError: The filter is unknown.
    """
    if interpolation not in get_args(Interpolation):
        raise TaskError(f"interpolation must be {' or '.join(get_args(Interpolation))}, got {interpolation!r}")
    kind = GeneralizedRCNNTransform if interpolation == "bilinear" else _BicubicTransform
    transform = kind(min_size, max_size, list(mean), list(std))
    transform.interpolation = interpolation
    return transform


class _BicubicTransform(GeneralizedRCNNTransform):  # type: ignore[misc] # torchvision has no types
    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Resize an image (C, H, W) from 0 to 1, and its target as torchvision does."""
        shaped, target = super().resize(image.new_empty(image.shape, device="meta"), target)
        size = shaped.shape[-2:]
        # cubic weights overshoot at edges
        resized = F.interpolate(image[None], size, mode="bicubic", align_corners=False)[0].clamp(0, 1)
        return resized, target


class RoIPool(nn.Module):
    """RoIAlign over the levels of a pyramid: each box is read from the level that fits its size (Lin et al., FPN).

    torchvision's `MultiScaleRoIAlign` guesses the strides from the first batch, wrongly where small images are
    padded by a large share, and has no ``aligned``.

    Args:
        size: The side of what is read, in bins.
        strides: The strides of the levels in pixels, powers of two, finest first; the pyramid's maps are named
            "0", "1", ...
        sampling_ratio: The number of samples of a bin in each direction; 0 takes as many as the bin is wide in
            pixels of the map.
        aligned: Whether a pixel's value stands at its centre, as in MMDetection's and Detectron2's detectors;
            otherwise at its upper left corner, as in torchvision's.

    Shape:
        Maps ``(B, C, H_i, W_i)`` by name and boxes ``(n_b, 4)`` of each of B images; to ``(Σ n_b, C, size,
        size)``.
    """

    def __init__(self, size: int, strides: Sequence[int], sampling_ratio: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.featmap_names = [str(number) for number in range(len(strides))]
        self.output_size = (size, size)
        self.sampling_ratio, self.aligned = sampling_ratio, aligned
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(*(int(stride).bit_length() - 1 for stride in (strides[0], strides[-1])))

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Read boxes (n_b, 4) of images; ``image_shapes`` is what torchvision passes, and is not needed."""
        images = torch.cat([box.new_full((len(box), 1), index) for index, box in enumerate(boxes)])
        regions = torch.cat([images, torch.cat(boxes)], 1)
        levels = self.map_levels(boxes)
        maps = [x[name] for name in self.featmap_names]
        found = maps[0].new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        for level, (map_, scale) in enumerate(zip(maps, self.scales, strict=True)):
            here = torch.where(levels == level)[0]
            read = self.read(map_, regions[here], scale)
            found = found.index_copy(0, here, read.to(found.dtype))
        return found

    def read(self, map_: Tensor, regions: Tensor, scale: float) -> Tensor:
        """Read regions (n, 5), the number of the image and the box, from the map of one level."""
        read: Tensor = roi_align(
            map_, regions, self.output_size, scale, sampling_ratio=self.sampling_ratio, aligned=self.aligned
        )
        return read
