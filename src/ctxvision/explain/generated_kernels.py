"""What involution and CoT layers make of an image: kernels at every position, static and dynamic context."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.nn import CoTLayer, Involution2d

from .layers import hooks


@dataclass(frozen=True)
class Kernels:
    """The kernels that one layer generated, one for each of G groups and each position.

    Attributes:
        name: of the layer.
        kernel: size of a kernel, (k, k).
        kernels: (B, G, K, H', W') float32, taps row by row over the kernel: involution's kernels, or CoT's
            attention maps. Both are signed and need not add up to one.
    """

    name: str
    kernel: tuple[int, int]
    kernels: np.ndarray

    def sums(self) -> np.ndarray:
        """Return the sum of each kernel, (B, G, H', W'): what it makes of a constant neighbourhood.

        Source: the heat maps of Li et al., Involution, CVPR 2021.
        """
        return self.kernels.sum(2)


@dataclass(frozen=True)
class Contexts(Kernels):
    """A CoT layer's attention, and the two contexts that it fuses.

    Attributes:
        static: strength of the static context K1, root of the mean square over the channels, (B, H, W) float32.
        dynamic: of the dynamic context K2, likewise.
        dynamic_share: the fusion's weight of the dynamic context for each channel, α0 = 1 − α1, (B, C) float32;
            ``None`` in the ablations that do not weigh the two.
    """

    static: np.ndarray
    dynamic: np.ndarray
    dynamic_share: np.ndarray | None


def kernel_layers(model: nn.Module) -> list[str]:
    """Name the involution layers, and the CoT layers that attend, in the order in which they were built."""
    return [name for name, module in model.named_modules() if _generates(module)]


def _generates(module: nn.Module) -> bool:
    return isinstance(module, Involution2d) or (isinstance(module, CoTLayer) and module.context != "static")


def generated_kernels(
    model: nn.Module, images: Tensor, layers: Sequence[str] | None = None
) -> list[Kernels | Contexts]:
    """Look at the kernels and contexts of some layers while a network reads images.

    CoT layers compute their attention a second time for it; involution layers are only watched.

    Args:
        model: with `Involution2d` or `CoTLayer`.
        images: (B, C, H, W); the result holds G · K · H' · W' numbers for each image and layer.
        layers: names of `kernel_layers`; by default all.

    Raises:
        ValueError: a name is not one of those.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("rednet_micro", num_classes=20)
        >>> found = generated_kernels(model, torch.zeros(1, 3, 64, 64))[1]
        >>> found.name, found.kernel, found.kernels.shape
        ('layer1.0.conv2', (7, 7), (1, 2, 49, 16, 16))
    """
    known = kernel_layers(model)
    for name in layers or ():
        if name not in known:
            raise ValueError(
                f"{name!r} generates no kernels; this network's layers that do: {', '.join(known) or 'none'}"
            )
    names = known if layers is None else list(layers)
    with evaluation_mode(model), _watching(model, names) as seen:
        model(images)
    return [seen[name] for name in names if name in seen]


@contextmanager
def _watching(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Kernels | Contexts]]:
    seen: dict[str, Kernels | Contexts] = {}
    with ExitStack() as stack:
        for name in names:
            layer: Any = model.get_submodule(name)
            if isinstance(layer, CoTLayer):
                stack.enter_context(hooks([layer], _note_contexts(name, seen)))
            else:
                stack.enter_context(hooks([layer.span], _note_kernels(name, layer, seen)))
        yield seen


def _note_kernels(name: str, layer: Involution2d, seen: dict[str, Any]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps = output.detach().unflatten(1, (layer.groups, layer.kernel_size**2))
        seen[name] = Kernels(name, (layer.kernel_size,) * 2, _array(maps))

    return hook


def _note_contexts(name: str, seen: dict[str, Any]) -> Any:
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
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()


def _strength(context: Tensor) -> np.ndarray:
    return _array(context.detach().float().square().mean(1).sqrt())
