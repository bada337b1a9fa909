"""Logits of whole images: at once, or from windows that slide over them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
Size = tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """The prediction for one image.

    Attributes:
        classes: The most probable class of every pixel, (H, W) int64.
        confidence: The softmax probability of that class, (H, W) float32.
    """

    classes: Tensor
    confidence: Tensor


def window_places(size: Size, window: Size, stride: Size) -> list[tuple[int, int]]:
    """List the upper left corners of the windows that cover an image.

    Windows follow each other by ``stride``; the last of a row or column is moved back to end with the image.

    Args:
        size: The height and width of the image in pixels.
        window: The height and width of a window in pixels, at most those of the image.
        stride: The vertical and horizontal distance between windows in pixels, at most a window, so that every
            pixel is covered.

    Examples:
        >>> window_places((4, 10), (4, 4), (3, 3))
        [(0, 0), (0, 3), (0, 6)]
    """
    starts = [
        [min(step * by, length - side) for step in range(-(-(length - side) // by) + 1)]
        for length, side, by in zip(size, window, stride, strict=True)
    ]
    return [(top, left) for top in starts[0] for left in starts[1]]


def image_logits(
    network: Network, images: Tensor, *, window: Size | None = None, stride: Size | None = None
) -> Tensor:
    """Compute logits (B, num_classes, H, W) of images (B, C, H, W).

    Args:
        network: A function from images (B, C, h, w) to logits (B, num_classes, h, w).
        images: The images, (B, C, H, W).
        window: The height and width in pixels of what the network sees at a time; where windows overlap, their
            logits are averaged. An image that is smaller in a direction is one window there. ``None`` takes the
            image at once.
        stride: The vertical and horizontal distance between windows in pixels; by default two thirds of a window.

    Raises:
        ValueError: The stride would leave gaps between the windows.
    """
    if window is None:
        return network(images)
    stride = stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    if min(window) < 1 or not all(1 <= by <= side for by, side in zip(stride, window, strict=True)):
        raise ValueError(f"the stride must be at least 1 and at most the window, got {stride} for {window}")
    height, width = images.shape[2:]
    rows, columns = min(window[0], height), min(window[1], width)
    total, cover = None, images.new_zeros(1, 1, height, width)
    for top, left in window_places((height, width), (rows, columns), stride):
        here = (..., slice(top, top + rows), slice(left, left + columns))
        logits = network(images[here])
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        total[here] += logits
        cover[here] += 1
    assert total is not None  # there is always a first window
    return total / cover


@torch.no_grad()
def segment(
    network: Network, image: Tensor, *, window: Size | None = None, stride: Size | None = None
) -> Segmentation:
    """Predict the class of every pixel of one image (C, H, W), normalised, with the confidence in it.

    Args:
        network: A network in evaluation mode, from images (B, C, h, w) to logits (B, num_classes, h, w).
        image: The image, (C, H, W), normalised and on the network's device.
        window: The height and width in pixels of what the network sees at a time, see `image_logits`.
        stride: The vertical and horizontal distance between windows in pixels, see `image_logits`.
    """
    logits = image_logits(network, image[None], window=window, stride=stride)[0].float()
    confidence, classes = logits.softmax(0).max(0)
    return Segmentation(classes.cpu(), confidence.cpu())
