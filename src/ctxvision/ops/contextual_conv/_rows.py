"""Images as the compiled kernels see them: rows of float32 numbers, one row per pixel.

An image is (B, H * W, C), C filled up with zeros to a length that vectors divide. A channels-last float32 tensor
of that length is its own rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctxvision.ops import _native


def call(function: str, tensors: Sequence[Tensor | None], numbers: Sequence[int]) -> None:
    library = _native.load()
    if isinstance(library, str):
        raise RuntimeError(library)
    library.call(f"ctxvision_contextual_{function}", tensors, numbers)


def empty(like: Tensor, *shape: int) -> Tensor:
    """Return uninitialised memory for the kernels, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _row_length(channels: int) -> int:
    """Return the floats of a row: a multiple of 16, or of a narrower vector where that would be mostly zeros."""
    if channels <= 2:
        return channels
    return next((length for length in (4, 8) if channels <= length), -(-channels // 16) * 16)


def _own_rows(image: Tensor, length: int) -> Tensor | None:
    """Return (B, H * W, C) in the memory of (B, C, H, W) if the kernels can use it."""
    pixels = image.permute(0, 2, 3, 1)
    if image.dtype != torch.float32 or image.shape[1] != length or not pixels.is_contiguous():
        return None
    return pixels.flatten(1, 2)


def _copy(function: str, tensors: Sequence[Tensor], image: Tensor, length: int) -> None:
    batch, channels, pixels = image.shape
    numbers = [_native.CODES[image.dtype], batch, channels, pixels, length, *image.stride()]
    call(function, tensors, numbers)


def rows_of(image: Tensor, length: int | None = None) -> Tensor:
    """Return (B, C, H, W) as (B, H * W, length), float32; by default a length for the kernels."""
    rows = empty_rows(image, length)
    if rows.data_ptr() != image.data_ptr():
        image = image.flatten(2)
        _copy("to_rows", [image, rows], image, rows.shape[2])
    return rows


def empty_rows(image: Tensor, length: int | None = None) -> Tensor:
    """Return uninitialised rows for ``image``, in its own memory if possible; `write_rows` completes it."""
    length = _row_length(image.shape[1]) if length is None else length
    rows = _own_rows(image, length)
    if rows is None:
        rows = empty(image, image.shape[0], image.shape[2] * image.shape[3], length)
    return rows


def write_rows(rows: Tensor, image: Tensor) -> Tensor:
    """Return ``image``, filled from the rows of `empty_rows`."""
    if rows.data_ptr() != image.data_ptr():
        _copy("from_rows", [rows, image], image.flatten(2), rows.shape[2])
    return image
