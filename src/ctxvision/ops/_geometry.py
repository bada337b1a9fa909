"""Sizes, pairs and casts that both operators share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._derivatives import transforms_active

# Looked up once: torch.compile in torch 2.8 cannot trace the question. Others, such as meta, have no autocast.
AUTOCAST_DEVICES = frozenset(
    device
    for device in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")
    if torch.amp.is_autocast_available(device)
)


DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
LARGEST = 2**31 - 1  # of steps, distances and padded sides: positions inside the kernels have 32 bits


def as_pair(value: int | Sequence[int], name: str, minimum: int) -> list[int]:
    """Return ``value`` as ``[vertical, horizontal]``.

    Raises:
        ValueError: If the value is not one or two integers, or one of them is below ``minimum`` or above 2³¹ - 1.
    """
    whole = (int, torch.SymInt)
    pair = list(value) if isinstance(value, Sequence) else [value, value]
    if len(pair) != 2 or any(not isinstance(n, whole) or isinstance(n, bool) or n < minimum for n in pair):
        raise ValueError(f"{name} must be one or two integers >= {minimum}, got {value!r}")
    if any(type(n) is int and n > LARGEST for n in pair):
        raise ValueError(f"{name} must not be larger than 2**31 - 1, got {value!r}")
    return pair


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Return the spatial output size of a convolution: ``(H + 2p - d(k - 1) - 1) // s + 1`` per axis."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]


def too_wide(size: Sequence[int], padding: Sequence[int]) -> str | None:
    """Return why the kernels cannot count the pixels of a padded side, or ``None``."""
    padded = [n + 2 * p for n, p in zip(size, padding, strict=True)]
    if any(type(n) is int and n > LARGEST for n in padded):  # symbolic sizes are checked when they have values
        return f"the padded image {padded[0]} x {padded[1]} must not have sides larger than 2**31 - 1"
    return None


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` is laid out channels-last and is not plainly contiguous as well; `torch.fx`'s proxies are not."""
    if not isinstance(x, Tensor):
        return False
    if transforms_active():  # `torch.vmap` cannot be asked for any other layout than the plain one
        return x.permute(0, 2, 3, 1).is_contiguous() and not x.is_contiguous()
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def empty_like_layout(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialised 4-d tensor of ``shape`` in the memory format of ``x``."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=layout)


def like_layout(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` dense and in the memory format of ``like``; itself if it is so already."""
    if transforms_active():
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if is_channels_last(like) else x.contiguous()
    return x.contiguous(memory_format=torch.channels_last if is_channels_last(like) else torch.contiguous_format)


def empty_maps(image: Tensor, groups: int, taps: int) -> Tensor:
    """Return uninitialised maps (B, G, K, H, W) for the positions of ``image``, taps last if it is channels-last.

    These are the orders in which a 1x1 convolution generates maps in the two memory formats.
    """
    batch, _, height, width = image.shape
    if is_channels_last(image):
        return image.new_empty((batch, height, width, groups, taps)).permute(0, 3, 4, 1, 2)
    return image.new_empty((batch, groups, taps, height, width))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums of ``dtype`` are formed: half precision accumulates in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def autocast_inputs(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast floating tensors as autocast would for a convolution; float64 is left alone, as torch does."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return tensors
    target = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor | None) -> Tensor | None:
        eligible = tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(target) if tensor is not None and eligible else tensor

    return tuple(cast(tensor) for tensor in tensors)


def check_same_kind(op: str, **tensors: Tensor | None) -> None:
    """Raise ``ValueError`` unless all given tensors are dense, floating and share dtype and device."""
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first = next(iter(present.values()))
    dtype, device = first.dtype, first.device
    if any(tensor.dtype != dtype or tensor.device != device for tensor in present.values()):
        listed = ", ".join(f"{name} is {tensor.dtype} on {tensor.device}" for name, tensor in present.items())
        raise ValueError(f"{op}: all tensors need one dtype and one device, but {listed}")
    if dtype not in DTYPES:
        raise ValueError(
            f"{op}: tensors must be floating point (float16, bfloat16, float32 or float64), got {dtype}; "
            "convert with .float()"
        )
    for name, tensor in present.items():
        if tensor.layout != torch.strided:
            raise ValueError(f"{op}: {name} must be a dense tensor, got {tensor.layout}; convert with .to_dense()")
