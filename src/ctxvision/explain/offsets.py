"""How contextual convolutions bend: where their taps read the image, and how far their kernels move."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.nn import ContextualConv2d
from ctxvision.ops._geometry import as_pair

from .layers import hooks
from .pixel_grid import PixelGrid, grid_of, pixel_grids


@dataclass(frozen=True)
class Bend:
    """What one contextual convolution of K taps makes of a batch.

    Attributes:
        name: of the layer.
        kernel: its kernel's size, (kh, kw).
        plain: where the taps of the plain convolution would read, (K, H', W', 2) float32, (y, x) in pixels of the
            image; taps row by row over the kernel.
        taps: where they do read, (B, K, H', W', 2) float32, likewise.
        mask: modulation of each tap, (B, K, H', W') float32; ``None`` if the layer has none.
        kernel_change: norm of the weight offsets over the norm of the kernel, (B,) float32; ``None`` if the layer
            has none.
        grid: of the layer's input.
    """

    name: str
    kernel: tuple[int, int]
    plain: np.ndarray
    taps: np.ndarray
    mask: np.ndarray | None
    kernel_change: np.ndarray | None
    grid: PixelGrid

    @property
    def lengths(self) -> np.ndarray:
        """How far each tap is from its regular place, in pixels of the image, (B, K, H', W')."""
        return np.linalg.norm(self.taps - self.plain, axis=-1)


@dataclass(frozen=True)
class ClassBend:
    """How far one contextual convolution bends for images that the network takes for a class.

    Attributes:
        name: of the layer.
        images: numbers of images by predicted class, (C,) int64.
        lengths: mean distance of a tap from its regular place, in pixels of the image, (C,); NaN without images.
        kernel_change: mean of `Bend.kernel_change`, (C,); NaN without images or weight offsets.
    """

    name: str
    images: np.ndarray
    lengths: np.ndarray
    kernel_change: np.ndarray


def contextual_layers(model: nn.Module) -> list[str]:
    """Name the contextual convolutions of a network, in the order in which they were built."""
    return [name for name, module in model.named_modules() if isinstance(module, ContextualConv2d)]


def bends(model: nn.Module, images: Tensor, layers: Sequence[str] | None = None) -> list[Bend]:
    """Look at the offsets of contextual convolutions while a network reads some images.

    Args:
        model: a contextual network, or one with contextual convolutions from `ctxvision.nn.replace_convs`.
        images: (B, C, H, W); the result holds 2 · K · H' · W' numbers for each image and layer.
        layers: names of `contextual_layers`; by default all.

    Raises:
        ValueError: a name is not one of those.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("contextual_convnext_micro", num_classes=20)
        >>> [(bend.name, bend.taps.shape) for bend in bends(model, torch.zeros(1, 3, 64, 64))][0]
        ('stages.1.blocks.1.conv_dw', (1, 49, 8, 8, 2))
    """
    names = _checked(model, layers)
    grids = pixel_grids(model, images)
    image = (int(images.shape[2]), int(images.shape[3]))
    found: dict[str, Bend] = {}
    with evaluation_mode(model), _watching(model, names) as watched:
        model(images)
    for name, seen in watched.items():
        layer: Any = model.get_submodule(name)
        grid = grid_of(grids, seen.size, image)
        kernel = (int(layer.weight.shape[2]), int(layer.weight.shape[3]))
        plain = _to_pixels(_regular(layer, kernel, seen.out_size), grid)
        if seen.shift is None:
            taps = np.broadcast_to(plain, (len(images), *plain.shape)).copy()
        else:
            moved = seen.shift.unflatten(1, (-1, 2)).movedim(2, -1).numpy()  # (B, K, H', W', 2)
            taps = (plain + moved * np.array(grid.step, np.float32)).astype(np.float32)
        mask = None if seen.mask is None else seen.mask.numpy()
        found[name] = Bend(name, kernel, plain, taps, mask, seen.change, grid)
    return [found[name] for name in names if name in found]


def bend_by_class(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], layers: Sequence[str] | None = None
) -> list[ClassBend]:
    """Measure how far the contextual convolutions bend for each predicted class, over a data set.

    Only sums are kept, whatever the number of images.

    Args:
        model: as for `bends`, with logits (B, classes).
        batches: images (B, C, H, W) and anything, as a data loader yields them.
        layers: names of `contextual_layers`; by default all.

    Raises:
        ValueError: a name is not one of those, or there are no images.
    """
    names = _checked(model, layers)
    sums: dict[str, np.ndarray] = {}
    counts = np.zeros(0, np.int64)
    steps: dict[str, tuple[float, float]] = {}
    with evaluation_mode(model), _watching(model, names) as watched:
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
                change = np.full(len(images), np.nan) if seen.change is None else seen.change
                total[1] += np.bincount(answers, change, len(counts))
    if not sums:
        raise ValueError("there are no images, or no contextual convolution was reached")
    with np.errstate(invalid="ignore"):
        return [ClassBend(name, counts, *(sums[name] / counts)) for name in names if name in sums]


def _checked(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    known = contextual_layers(model)
    for name in layers or ():
        if name not in known:
            raise ValueError(
                f"{name!r} is no contextual convolution of this network; it has {', '.join(known) or 'none'}"
            )
    return known if layers is None else list(layers)


@dataclass
class _Seen:
    """What was seen at one layer in the last batch."""

    size: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (1, 1)
    shift: Tensor | None = None
    mask: Tensor | None = None
    change: np.ndarray | None = None

    def mean_length(self, step: tuple[float, float], count: int) -> np.ndarray:
        """Return the mean distance in pixels per image, (B,)."""
        if self.shift is None:
            return np.zeros(count)
        shift = self.shift.unflatten(1, (-1, 2)) * torch.tensor(
            step, dtype=self.shift.dtype, device=self.shift.device
        ).view(1, 1, 2, 1, 1)
        return shift.norm(dim=2).mean((1, 2, 3)).double().numpy()


@contextmanager
def _watching(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, _Seen]]:
    """Note what the offset generators return, by layer, without computing anything again."""
    seen: dict[str, _Seen] = {}
    with ExitStack() as stack:
        for name in names:
            for part, hook in _parts(model.get_submodule(name), name, seen):
                stack.enter_context(hooks([part], hook))
        yield seen


def _parts(layer: Any, name: str, all_seen: dict[str, _Seen]) -> list[tuple[nn.Module, Any]]:
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
        all_seen.setdefault(name, _Seen()).change = (norms * shared / of_kernel).numpy()

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
    return (positions * np.array(grid.step) + np.array(grid.start)).astype(np.float32)
