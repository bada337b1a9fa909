"""The offsets of contextual convolutions: where their taps read an image (Δp), how their kernels change (Δw)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.nn import ContextualConv2d
from ctxvision.ops._geometry import as_pair

from .layers import Hook, PixelGrid, chosen_layers, grid_of, pixel_grids, watching

_STILL = 0.01  # pixels


@dataclass(frozen=True)
class ContextualOffsets:
    """The offsets that one contextual convolution of K taps generates for a batch.

    Attributes:
        name: The name of the layer.
        kernel: The size of its kernel, (kh, kw).
        regular: The places where the taps of the plain convolution would read, (K, H', W', 2) float32, as (y, x)
            in pixels of the image; the taps are in the order of the rows of the kernel.
        sampled: The places where the taps read with their sampling offsets Δp, (B, K, H', W', 2) float32, as (y,
            x) in pixels of the image.
        mask: The modulation of each tap, (B, K, H', W') float32; ``None`` if the layer has none.
        weight_offset: The norm of the weight offset Δw divided by the norm of the kernel, (B,) float32; ``None``
            if the layer has no weight offset.
        grid: The grid that gives the places of the positions of the layer's input in the image.
    """

    name: str
    kernel: tuple[int, int]
    regular: np.ndarray
    sampled: np.ndarray
    mask: np.ndarray | None
    weight_offset: np.ndarray | None
    grid: PixelGrid

    @property
    def sampling_offset(self) -> np.ndarray:
        """The distance of each tap from its regular place, the length of Δp in pixels, (B, K, H', W')."""
        lengths: np.ndarray = np.linalg.norm(self.sampled - self.regular, axis=-1)
        return lengths

    @property
    def still(self) -> bool:
        """Whether no tap moves by more than a hundredth of a pixel, so that there is nothing to see."""
        return bool(self.sampling_offset.max() < _STILL)


@dataclass(frozen=True)
class ClassOffsets:
    """The mean offsets of one contextual convolution over the images that are predicted as each of C classes.

    Attributes:
        name: The name of the layer.
        images: The number of images by predicted class, (C,) int64.
        sampling_offset: The mean length of Δp in pixels of the image, by predicted class, (C,); NaN for classes
            without images.
        weight_offset: The mean norm of Δw divided by the norm of the kernel, by predicted class, (C,); NaN for
            classes without images and for layers without weight offset.
    """

    name: str
    images: np.ndarray
    sampling_offset: np.ndarray
    weight_offset: np.ndarray


def contextual_layers(model: nn.Module) -> list[str]:
    """List the names of the contextual convolutions of a network, in the order of construction."""
    return [name for name, module in model.named_modules() if isinstance(module, ContextualConv2d)]


def contextual_offsets(
    model: nn.Module, images: Tensor, layers: Sequence[str] | None = None
) -> list[ContextualOffsets]:
    """Return the offsets of contextual convolutions while a network reads images.

    Args:
        model: A contextual network, or one with contextual convolutions from `ctxvision.nn.replace_convs`.
        images: The normalised images, (B, C, H, W), on the network's device; the result holds 2 · K · H' · W'
            numbers for each image and layer.
        layers: The names of layers that `contextual_layers` lists; by default all of them.

    Returns:
        The offsets of each layer that has run.

    Raises:
        ValueError: A name is not one that `contextual_layers` lists.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("contextual_convnext_micro", num_classes=20)
        >>> found = contextual_offsets(model, torch.zeros(1, 3, 64, 64))[0]
        >>> found.name, found.sampled.shape, float(found.sampling_offset.max())  # Δp is 0 before training
        ('stages.1.blocks.0.conv_dw', (1, 49, 8, 8, 2), 0.0)
    """
    names = _chosen(model, layers)
    grids = pixel_grids(model, images)
    image = (int(images.shape[2]), int(images.shape[3]))
    found: dict[str, ContextualOffsets] = {}
    with _watched_offsets(model, names) as watched:
        model(images)
    for name, seen in watched.items():
        layer: Any = model.get_submodule(name)
        grid = grid_of(grids, seen.size, image)
        kernel = (int(layer.weight.shape[2]), int(layer.weight.shape[3]))
        regular = _to_pixels(_regular(layer, kernel, seen.out_size), grid)
        if seen.shift is None:
            sampled = np.broadcast_to(regular, (len(images), *regular.shape)).copy()
        else:
            moved = seen.shift.unflatten(1, (-1, 2)).movedim(2, -1).numpy()  # (B, K, H', W', 2)
            sampled = (regular + moved * np.array(grid.step, np.float32)).astype(np.float32)
        mask = None if seen.mask is None else seen.mask.numpy()
        found[name] = ContextualOffsets(name, kernel, regular, sampled, mask, seen.weight_offset, grid)
    return [found[name] for name in names if name in found]


def offsets_by_class(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]], layers: Sequence[str] | None = None
) -> list[ClassOffsets]:
    """Average the offsets of contextual convolutions for each predicted class, over a data set.

    The memory does not grow with the number of images, because only sums are kept.

    Args:
        model: A contextual network, or one with contextual convolutions from `ctxvision.nn.replace_convs`, that
            returns logits (B, classes).
        batches: Pairs of normalised images (B, C, H, W) and their classes (B,), as a data loader yields them; the
            classes are ignored and may be ``None``.
        layers: The names of layers that `contextual_layers` lists; by default all of them.

    Returns:
        The mean offsets of each layer that has run.

    Raises:
        ValueError: A name is not one that `contextual_layers` lists, there are no images, or no contextual
            convolution has run.
    """
    names = _chosen(model, layers)
    sums: dict[str, np.ndarray] = {}
    counts = np.zeros(0, np.int64)
    steps: dict[str, tuple[float, float]] = {}
    with _watched_offsets(model, names) as watched:
        for images, _ in batches:
            if not len(images):
                continue
            if not steps:
                image = (int(images.shape[2]), int(images.shape[3]))
                grids = pixel_grids(model, images)
                steps = {name: grid_of(grids, seen.size, image).step for name, seen in watched.items()}
            logits = model(images)
            answers = logits.argmax(1).cpu().numpy()
            counts = counts if len(counts) else np.zeros(logits.shape[1], np.int64)
            counts += np.bincount(answers, minlength=len(counts))
            for name, seen in watched.items():
                total = sums.setdefault(name, np.zeros((2, len(counts))))
                total[0] += np.bincount(answers, seen.mean_length(steps[name], len(images)), len(counts))
                change = np.full(len(images), np.nan) if seen.weight_offset is None else seen.weight_offset
                total[1] += np.bincount(answers, change, len(counts))
    if not sums:
        raise ValueError("there are no images, or no contextual convolution was reached")
    with np.errstate(invalid="ignore"):
        return [ClassOffsets(name, counts, *(sums[name] / counts)) for name in names if name in sums]


def _chosen(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    return chosen_layers(contextual_layers(model), layers, "is no contextual convolution of this network; it has")


@dataclass
class _Seen:
    """The observations at one layer in the last batch."""

    size: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (1, 1)
    shift: Tensor | None = None
    mask: Tensor | None = None
    weight_offset: np.ndarray | None = None

    def mean_length(self, step: tuple[float, float], count: int) -> np.ndarray:
        """Return the mean length of Δp in pixels for each of ``count`` images, (B,)."""
        if self.shift is None:
            return np.zeros(count)
        shift = self.shift.unflatten(1, (-1, 2)) * torch.tensor(
            step, dtype=self.shift.dtype, device=self.shift.device
        ).view(1, 1, 2, 1, 1)
        lengths: np.ndarray = shift.norm(dim=2).mean((1, 2, 3)).double().numpy()
        return lengths


@contextmanager
def _watched_offsets(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, _Seen]]:
    """Record the outputs of the offset generators by layer, without computing anything again."""
    seen: dict[str, _Seen] = {}
    with watching(model, [pair for name in names for pair in _hooks(model.get_submodule(name), name, seen)]):
        yield seen


def _hooks(layer: Any, name: str, all_seen: dict[str, _Seen]) -> list[tuple[nn.Module, Hook]]:
    """Return the modules to watch for one layer, each with its hook; the layer's own comes last."""
    of_kernel = layer.weight.detach().float().norm().cpu()
    # a kernel offset is shared by the output channels that read its channel
    shared = (layer.weight.shape[0] / layer.groups) ** 0.5

    def whole(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen = all_seen.setdefault(name, _Seen())
        seen.size = (int(inputs[0].shape[2]), int(inputs[0].shape[3]))
        seen.out_size = (int(output.shape[2]), int(output.shape[3]))

    def sampling(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor | None]) -> None:
        seen = all_seen.setdefault(name, _Seen())
        seen.shift, seen.mask = (None if t is None else t.detach().float().cpu() for t in output)

    def weights(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        norms = output.detach().float().flatten(1).norm(dim=1).cpu()
        all_seen.setdefault(name, _Seen()).weight_offset = (norms * shared / of_kernel).numpy()

    generators = ((layer.sampling_offsets, sampling), (layer.weight_offsets, weights))
    return [*((part, hook) for part, hook in generators if part is not None), (layer, whole)]


def _regular(layer: Any, kernel: tuple[int, int], out_size: tuple[int, int]) -> np.ndarray:
    """Return the regular places of the taps, (K, H', W', 2), in positions of the layer's input."""
    axes = []
    geometry = zip(
        as_pair(layer.stride, "stride", 1),
        as_pair(layer.padding, "padding", 0),
        as_pair(layer.dilation, "dilation", 1),
        kernel,
        out_size,
        strict=True,
    )
    for stride, padding, dilation, taps, size in geometry:
        axes.append(np.arange(size) * stride - padding + np.arange(taps)[:, None] * dilation)  # (k, size)
    y = np.broadcast_to(axes[0][:, None, :, None], (*kernel, *out_size))
    x = np.broadcast_to(axes[1][None, :, None, :], (*kernel, *out_size))
    return np.stack([y, x], -1).reshape(-1, *out_size, 2).astype(np.float32)


def _to_pixels(positions: np.ndarray, grid: PixelGrid) -> np.ndarray:
    pixels: np.ndarray = (positions * np.array(grid.step) + np.array(grid.start)).astype(np.float32)
    return pixels
