"""Images as users have them, on disk or in memory, as 8-bit pixels."""

import os
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ctxvision.data.images.reading import read_image

from .error import InferenceError

InMemory: TypeAlias = Image.Image | NDArray[np.uint8] | Tensor
Source: TypeAlias = str | os.PathLike[str] | InMemory
_IN_MEMORY = "an image in memory"


def read_picture(source: Source, color_mode: str) -> Image.Image:
    """Return an image in the mode of a network.

    Args:
        source: A path, an image of PIL's, a NumPy array (H, W), (H, W, 1) or (H, W, 3) uint8, or a torch tensor
            (H, W), (1, H, W) or (3, H, W) uint8.
        color_mode: The mode of the result, ``"RGB"`` or ``"L"``.

    Raises:
        BadImageError: The image cannot be read.
        InferenceError: An array or a tensor has another shape or dtype.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(source, color_mode)
    picture = source if isinstance(source, Image.Image) else Image.fromarray(_as_array(source))
    return read_image(picture, color_mode, _IN_MEMORY)


def _as_array(source: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
    """Return pixels (H, W) or (H, W, 3)."""
    channels_last = isinstance(source, np.ndarray)
    shape = "(height, width, 1 or 3)" if channels_last else "(1 or 3, height, width)"
    pixels = source if isinstance(source, np.ndarray) else as_numpy(source)
    if pixels.dtype != np.uint8:
        raise InferenceError(f"an image in memory holds uint8 pixels from 0 to 255, got {pixels.dtype}")
    if not channels_last and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or not pixels.size or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise InferenceError(f"an image in memory is {shape}, got {tuple(source.shape)}")
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def as_numpy(tensor: Tensor) -> NDArray[np.uint8]:
    """Return a tensor's values as an array on the CPU.

    Raises:
        InferenceError: The tensor does not hold 8-bit pixels.
    """
    if tensor.dtype != torch.uint8:
        raise InferenceError(f"pixels in memory are uint8, from 0 to 255, got {tensor.dtype}")
    array: NDArray[np.uint8] = tensor.detach().cpu().numpy()
    return array
