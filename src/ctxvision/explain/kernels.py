"""The kernels at every position that involution and CoT layers generate, and the static and dynamic contexts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.nn import CoTLayer, Involution2d

from .layers import Hook, chosen_layers, watching


@dataclass(frozen=True)
class Kernels:
    """The kernels that one layer generated, one for each of G groups and each position.

    Attributes:
        name: The name of the layer.
        kernel: The size of a kernel, (k, k).
        kernels: The kernels of involution, or the attention maps of CoT, (B, G, K, H', W') float32; the K = k²
            taps are in the order of the rows of the kernel. Both are signed and need not add up to one.
    """

    name: str
    kernel: tuple[int, int]
    kernels: np.ndarray

    def sums(self) -> np.ndarray:
        """Return the sum of each kernel, (B, G, H', W'), which is the kernel's effect on a constant neighbourhood.

        Source: the heat maps of Li et al., Involution, CVPR 2021.
        """
        sums: np.ndarray = self.kernels.sum(2)
        return sums


@dataclass(frozen=True)
class Contexts(Kernels):
    """The attention of a CoT layer, and the two contexts that it fuses.

    Attributes:
        static: The strength of the static context K1, the root of the mean square over the channels, (B, H, W)
            float32.
        dynamic: The strength of the dynamic context K2, the root of the mean square over the channels, (B, H, W)
            float32.
        dynamic_share: The weight, from 0 to 1, that the fusion gives the dynamic context in each channel, α0 = 1 −
            α1, (B, C) float32; ``None`` in the ablations that do not weigh the two contexts.
    """

    static: np.ndarray
    dynamic: np.ndarray
    dynamic_share: np.ndarray | None


def kernel_layers(model: nn.Module) -> list[str]:
    """List the names of involution layers and of CoT layers with attention, in the order of construction."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Involution2d) or (isinstance(module, CoTLayer) and module.context != "static")
    ]


def generated_kernels(
    model: nn.Module, images: Tensor, layers: Sequence[str] | None = None
) -> list[Kernels | Contexts]:
    """Return the kernels and contexts that layers generate while a network reads images.

    CoT layers compute their attention a second time for this; involution layers are only observed.

    Args:
        model: A network with `Involution2d` or `CoTLayer` modules.
        images: The normalised images, (B, C, H, W), on the network's device; the result holds G · K · H' · W'
            numbers for each image and layer.
        layers: The names of layers that `kernel_layers` lists; by default all of them.

    Returns:
        The kernels of each layer that has run.

    Raises:
        ValueError: A name is not one that `kernel_layers` lists.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("rednet_micro", num_classes=20)
        >>> found = generated_kernels(model, torch.zeros(1, 3, 64, 64))[1]
        >>> found.name, found.kernel, found.kernels.shape
        ('layer1.0.conv2', (7, 7), (1, 2, 49, 16, 16))
    """
    names = chosen_layers(kernel_layers(model), layers, "generates no kernels; this network's layers that do:")
    seen: dict[str, Kernels | Contexts] = {}
    with watching(model, [_watched(model.get_submodule(name), name, seen) for name in names]):
        model(images)
    return [seen[name] for name in names if name in seen]


def _watched(layer: Any, name: str, seen: dict[str, Any]) -> tuple[nn.Module, Hook]:
    """Return the module to watch for one layer, and its hook."""
    if isinstance(layer, CoTLayer):
        return layer, _note_contexts(name, seen)
    return layer.span, _note_kernels(name, layer, seen)


def _note_kernels(name: str, layer: Involution2d, seen: dict[str, Any]) -> Hook:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps = output.detach().unflatten(1, (layer.groups, layer.kernel_size**2))
        seen[name] = Kernels(name, (layer.kernel_size,) * 2, _array(maps))

    return hook


def _note_contexts(name: str, seen: dict[str, Any]) -> Hook:
    def hook(layer: CoTLayer, inputs: tuple[Tensor], _output: Tensor) -> None:
        (x,) = inputs
        static = layer.key_embed(x)
        dynamic = layer.dynamic_context(x, static)
        share = layer.fusion(static, dynamic)[..., 0] if layer.context == "full" else None
        seen[name] = Contexts(
            name,
            (layer.kernel_size,) * 2,
            _array(layer.attention(x, static)),
            _strength(static),
            _strength(dynamic),
            None if share is None else _array(share),
        )

    return hook


def _array(tensor: Tensor) -> np.ndarray:
    # a copy: the network may go on to work in place
    array: np.ndarray = tensor.detach().to("cpu", torch.float32, copy=True).numpy()
    return array


def _strength(context: Tensor) -> np.ndarray:
    return _array(context.detach().float().square().mean(1).sqrt())
