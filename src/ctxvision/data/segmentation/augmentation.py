"""Augmentation of images with masks, as in the involution supplement, section A.3, in OpenMMLab's reading."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from ctxvision.data.spec import filter_for_tensors

from .source import IGNORE, to_pixels

_TRIES = 10


@dataclass(frozen=True)
class PixelAugmentation:
    """Random scale, crop, flip and photometric distortion.

    All random numbers come from torch's global generator, so that who seeds it fixes the result.

    Args:
        crop_size: The height and width of the result in pixels; smaller images are padded at the right and below
            with 255 in the mask.
        scale: The smallest and the largest factor on both sides.
        max_category_ratio: The largest share of the labelled pixels that one class may take; a crop in which it
            takes more is drawn again, up to ten times.
        flip: The probability that the image is mirrored.
        photometric: Whether brightness, contrast, saturation and hue change.
        interpolation: The filter of the image's resize, see `filter_for_tensors`.
    """

    crop_size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    max_category_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    interpolation: str = "bilinear"

    def __call__(self, image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        """Return a crop (C, H, W) uint8 and its classes (H, W) uint8."""
        pixels, classes = to_pixels(image), to_pixels(mask)
        factor = _between(*self.scale)
        size = [max(1, round(side * factor)) for side in pixels.shape[1:]]
        if size != list(pixels.shape[1:]):
            pixels = T.resize_image(pixels, size, filter_for_tensors(self.interpolation), antialias=True)
            classes = T.resize_mask(classes, size)
        pixels, classes = self._crop(pixels, classes[0])
        if torch.rand((), dtype=torch.float32, device="cpu") < self.flip:
            pixels, classes = pixels.flip(-1), classes.flip(-1)
        if self.photometric:
            pixels = distort(pixels)
        missing = [want - have for want, have in zip(self.crop_size, classes.shape, strict=True)]
        if any(missing):
            around = (0, missing[1], 0, missing[0])
            # black in the picture: after normalisation a constant, and no loss there
            pixels, classes = F.pad(pixels, around), F.pad(classes, around, value=IGNORE)
        return pixels.contiguous(), classes.contiguous()

    def _crop(self, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (min(want, have) for want, have in zip(self.crop_size, classes.shape, strict=True))
        for _ in range(_TRIES):
            top = int(torch.randint(classes.shape[0] - height + 1, (), device="cpu"))
            left = int(torch.randint(classes.shape[1] - width + 1, (), device="cpu"))
            crop = classes[top : top + height, left : left + width]
            if self.max_category_ratio >= 1 or largest_share(crop) < self.max_category_ratio:
                break
        return pixels[:, top : top + height, left : left + width], crop


def largest_share(classes: Tensor) -> float:
    """Return the share of the most frequent class among the labelled pixels (H, W); 1 without a second class."""
    counts = torch.bincount(classes.flatten().long(), minlength=IGNORE + 1)[:IGNORE]
    return int(counts.max()) / int(counts.sum()) if counts.count_nonzero() > 1 else 1.0


def distort(pixels: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of an image (C, H, W) uint8, each with probability 1/2.

    Brightness adds up to 32 of 255; contrast multiplies by 0.5 to 1.5, before the colours or after them;
    saturation by 0.5 to 1.5; hue turns by up to 36°. torchvision's ``RandomPhotometricDistort`` differs: it
    multiplies the brightness, blends the contrast with the mean, and permutes the channels.
    """
    contrast_first = torch.rand((), dtype=torch.float32, device="cpu") < 0.5
    if torch.rand((), dtype=torch.float32, device="cpu") < 0.5:
        pixels = (pixels.short() + round(_between(-32, 32))).clamp(0, 255).to(torch.uint8)
    if contrast_first:
        pixels = _contrast(pixels)
    if torch.rand((), dtype=torch.float32, device="cpu") < 0.5:
        pixels = T.adjust_saturation(pixels, _between(0.5, 1.5))
    if torch.rand((), dtype=torch.float32, device="cpu") < 0.5:
        pixels = T.adjust_hue(pixels, _between(-0.1, 0.1))
    return pixels if contrast_first else _contrast(pixels)


def _contrast(pixels: Tensor) -> Tensor:
    # OpenMMLab's contrast is a factor, which torchvision calls brightness
    return (
        T.adjust_brightness(pixels, _between(0.5, 1.5))
        if torch.rand((), dtype=torch.float32, device="cpu") < 0.5
        else pixels
    )


def _between(low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), dtype=torch.float32, device="cpu").item()
