"""The places of the positions of a feature map in the image, in pixels."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ctxvision.ops._geometry import as_pair

from .layers import watching


@dataclass(frozen=True)
class PixelGrid:
    """The places of a map's positions in the image: ``position · step + start``, in pixels, for y and x.

    The centre of a pixel has whole numbers as coordinates; the first pixel is at 0.

    Attributes:
        step: The distance between neighbouring positions in pixels, (y, x).
        start: The pixel of position 0, (y, x).
        exact: Whether the grid was computed from the strides and paddings of the layers; if not, it is estimated
            from the sizes alone.
    """

    step: tuple[float, float]
    start: tuple[float, float]
    exact: bool = True


def pixel_grids(model: nn.Module, images: Tensor) -> dict[tuple[int, int], PixelGrid]:
    """Return the grid of every size (H, W) of map that convolutions and poolings of a network return.

    A position lies at the centre of its receptive field. Where branches with different kernels lead to maps of one
    size, the largest kernel decides, because a shortcut has a narrower kernel than the branch beside it.

    Args:
        model: Any network.
        images: The normalised images, (B, C, H, W), on the network's device; one image is enough.

    Returns:
        The grids by the size (H, W) of the map.

    Examples:
        >>> import torch
        >>> layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(2))
        >>> grids = pixel_grids(layers, torch.zeros(1, 3, 32, 32))
        >>> grids[8, 8].step, grids[8, 8].start
        ((4.0, 4.0), (1.0, 1.0))
    """
    image = (int(images.shape[2]), int(images.shape[3]))
    grids = {image: PixelGrid((1.0, 1.0), (0.0, 0.0))}
    widest: dict[tuple[int, int], int] = {}

    def follow(module: nn.Module, inputs: Any, output: Any) -> None:
        if not all(isinstance(part, Tensor) and part.dim() == 4 for part in (output, *inputs[:1])) or not inputs:
            return
        before, after = tuple(inputs[0].shape[2:]), tuple(output.shape[2:])
        geometry = _geometry(module)
        if geometry is None or before not in grids or after in (before, image):
            return
        kernel, stride, padding, dilation = geometry
        if max(kernel) <= widest.get(after, 0):
            return
        widest[after] = max(kernel)
        old = grids[before]
        y, x = (old.start[i] + (dilation[i] * (kernel[i] - 1) / 2 - padding[i]) * old.step[i] for i in (0, 1))
        grids[after] = PixelGrid((old.step[0] * stride[0], old.step[1] * stride[1]), (y, x), old.exact)

    with watching(model, [(module, follow) for module in model.modules()]):
        model(images[:1])
    return grids


def _geometry(module: nn.Module) -> tuple[list[int], ...] | None:
    """Return kernel size, stride, padding and dilation of a layer, each (y, x); ``None`` without a window."""
    if isinstance(module, nn.ConvTranspose2d):
        return None
    weight = getattr(module, "weight", None)
    kernel = getattr(module, "kernel_size", None)
    if kernel is None and isinstance(weight, Tensor) and weight.dim() == 4:
        kernel = tuple(weight.shape[2:])
    stride = getattr(module, "stride", None)
    if kernel is None or stride is None:
        return None
    kernel, dilation = as_pair(kernel, "kernel", 1), as_pair(getattr(module, "dilation", 1), "dilation", 1)
    padding = getattr(module, "padding", None)
    if padding == "valid":
        padding = 0
    elif not isinstance(padding, int | tuple | list):  # "same", and involution
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return kernel, as_pair(stride, "stride", 1), as_pair(padding, "padding", 0), dilation


def grid_of(grids: dict[tuple[int, int], PixelGrid], size: tuple[int, int], image: tuple[int, int]) -> PixelGrid:
    """Return the grid of maps of a size (H, W), estimated from the image's (H, W) if no layer is known."""
    if size in grids:
        return grids[size]
    step = (image[0] / size[0], image[1] / size[1])
    return PixelGrid(step, ((step[0] - 1) / 2, (step[1] - 1) / 2), exact=False)
