"""Images in figures and pages: as RGB arrays, enlarged, under a heat map, as data URIs."""

import base64
import io
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .palette import HEAT

Pixels: TypeAlias = NDArray[np.floating[Any]]
"""RGB from 0 to 1, (H, W, 3)."""

_SIDE = 480  # of a picture in a page, in pixels
_BLUE, _ORANGE = (56, 132, 214), (214, 110, 34)  # legible on white and on black
_SMALL = 64  # pixels of the longer side up to which a reader wants to see each of them


def is_small(image: Tensor) -> bool:
    """Return whether an image (C, H, W) has so few pixels that each of them should be visible when it is shown."""
    return max(image.shape[1:]) <= _SMALL


def seen_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """Undo the normalisation of an image for readers.

    Args:
        image: The input of a network, (C, H, W) with one or three channels, on any device.
        mean: The value that was subtracted from each channel, one or three numbers.
        std: The value by which each channel was then divided, one or three numbers.

    Returns:
        The image, RGB from 0 to 1, (H, W, 3) float32; grey images have three equal channels.

    Examples:
        >>> import torch
        >>> seen_pixels(torch.zeros(1, 2, 3), [0.5], [0.25]).shape
        (2, 3, 3)
    """
    channels_last = image.detach().float().cpu().numpy().transpose(1, 2, 0)
    pixels = np.clip(channels_last * np.array(std, np.float32) + np.array(mean, np.float32), 0, 1)
    return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels


def enlarged(pixels: Pixels, side: int = 224) -> Pixels:
    """Resize an image so that its longer side is near ``side``; large images keep up to twice that size.

    Small images are enlarged pixel by pixel, because programs that smooth them would blur them.

    Args:
        pixels: The image, RGB from 0 to 1, (H, W, 3).
        side: The desired length of the longer side, in pixels.

    Returns:
        The resized image, RGB from 0 to 1, (H', W', 3).
    """
    times = max(1, side // max(pixels.shape[:2]))
    every = -(-max(pixels.shape[:2]) // (2 * side))
    if every == 1:
        return pixels.repeat(times, 0).repeat(times, 1)
    height, width = (length // every * every for length in pixels.shape[:2])
    if not height or not width:  # a strip
        return pixels
    parts = pixels[:height, :width].reshape(height // every, every, width // every, every, -1)
    means: Pixels = parts.mean((1, 3))
    return means


def heat_colors(heat: np.ndarray) -> Pixels:
    """Return the colours, RGB from 0 to 1, (H, W, 3) float32, of a heat map (H, W) from 0 to 1."""
    colors: Pixels = colormaps[HEAT](heat)[..., :3].astype(np.float32)
    return colors


def under_heat(pixels: Pixels, heat: np.ndarray) -> Pixels:
    """Lay a heat map (H, W) from 0 to 1 over an image (H, W, 3) from 0 to 1, and keep the image's brightness."""
    grey = pixels.mean(2, keepdims=True)
    blended: Pixels = np.clip(0.45 * grey + 0.55 * heat_colors(heat), 0, 1)
    return blended


def under_own_heat(pixels: Pixels, heat: np.ndarray) -> Pixels:
    """Lay a heat map with a scale of its own over an image, which is grey and has no veil if all of it is 0."""
    return under_heat(pixels, heat) if heat.max() > 0 else np.repeat(pixels.mean(2, keepdims=True), 3, 2)


def to_picture(pixels: Tensor) -> Image.Image:
    """Turn an image (C, H, W) uint8 with one or three channels into a picture, grey or RGB."""
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def data_uri(picture: Image.Image, *, lossless: bool, side: int = _SIDE) -> str:
    """Return a picture as a data URI, at most ``side`` pixels wide and high: PNG if ``lossless``, else JPEG."""
    picture = picture.copy()
    picture.thumbnail((side, side))
    file, kind = io.BytesIO(), "png" if lossless else "jpeg"
    if lossless:
        picture.save(file, kind, optimize=True)
    else:
        picture.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def thumbnail(image: Tensor, mean: Sequence[float], std: Sequence[float], size: int = 160) -> str:
    """Turn a normalised image (C, H, W) into a data URI, at most ``size`` pixels wide and high.

    Small images become lossless PNGs, larger images JPEGs.

    Args:
        image: The input of a network, (C, H, W) with one or three channels.
        mean: The value that was subtracted from each channel, one or three numbers.
        std: The value by which each channel was then divided, one or three numbers.
        size: The largest length of the longer side, in pixels.

    Returns:
        The data URI.
    """
    pixels = (seen_pixels(image, mean, std) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
    return data_uri(picture, lossless=is_small(image), side=size)


def confusion_picture(confusion: NDArray[np.int64], side: int = 500) -> str:
    """Draw a confusion matrix of many classes as a PNG with a transparent background, and return its data URI.

    Right answers are blue, mistakes are orange; the opacity grows with the square root of the share of the row, so
    that single mistakes are visible.

    Args:
        confusion: The numbers of images, (classes, classes) int64; rows are true classes.
        side: The largest width and height in pixels; if there are more classes, neighbouring classes share a
            pixel.
    """
    size = len(confusion)
    block = -(-size // side)
    edges = np.arange(0, size, block)
    cells = np.add.reduceat(np.add.reduceat(confusion, edges, 0), edges, 1)
    right = np.add.reduceat(confusion.diagonal(), edges)
    diagonal = np.eye(len(cells), dtype=bool)
    cells[diagonal] = right
    images = np.add.reduceat(confusion.sum(1), edges)
    share = np.sqrt(cells / np.maximum(images, 1)[:, None])
    pixels = np.zeros((*cells.shape, 4), np.uint8)
    pixels[..., :3] = np.where(diagonal[..., None], _BLUE, _ORANGE)
    pixels[..., 3] = np.where(cells > 0, np.round(255 * (0.3 + 0.7 * share)), 0)
    pixels[cells == 0] = 0
    return data_uri(Image.fromarray(pixels, "RGBA"), lossless=True, side=side)
