"""The layer that takes a convolution's place, or the reason why none can."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ._folding import FoldsNormByUnits
from .contextual_conv import ContextualConv2d
from .cot import CoTLayer
from .involution import Involution2d

Kind = Literal["cot", "involution", "contextual"]

_PADDED_TO_SIZE = (Conv2dSame, StdConv2dSame, ScaledStdConv2dSame)  # TensorFlow's rule: ceil(H / stride)
_STANDARDISED = (StdConv2d, ScaledStdConv2d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def successor(
    conv: nn.Module, kind: Kind, options: dict[str, Any], weight_is_tied: bool, device: torch.device | None = None
) -> nn.Module:
    """Return a new layer of the same output shape, in the convolution's dtype and mode.

    Args:
        conv: Convolution that the new layer replaces.
        kind: Kind of the new layer.
        options: Options of the new layer, see `OPTIONS`.
        weight_is_tied: Whether other layers of the network have the same weight.
        device: Device on which the layer is built; ``None`` means the convolution's device.

    Raises:
        ValueError: If the convolution cannot be replaced; the message is the reason.
    """
    conv = _require_plain(conv, kind)
    if weight_is_tied and kind != "contextual":
        raise ValueError("its weight is tied to another layer's, and the tie would be lost")
    with device or conv.weight.device:
        layer = _BUILDERS[kind](conv, **options).to(conv.weight.dtype)
    if isinstance(layer, ContextualConv2d):
        layer._parameters.update(weight=conv.weight, bias=conv.bias)  # type: ignore[call-overload]
    return layer.train(conv.training)


def _require_plain(conv: nn.Module, kind: Kind) -> nn.Conv2d:
    """Raise unless shape and weight of the convolution are all that there is to it."""
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"it is a {type(conv).__name__}, not a Conv2d")
    if isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        raise ValueError("it is lazy and has no shape yet; pass one batch through the network first")
    if is_parametrized(conv) or "weight" not in conv._parameters:
        raise ValueError("its weight is computed (weight norm, spectral norm, pruning); remove that first")
    if any(getattr(conv, hooks) for hooks in _HOOKS):
        raise ValueError("it carries hooks, which would be lost; remove them first")
    inherits = all(getattr(type(conv), name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward"))
    if not inherits and (kind == "contextual" or not isinstance(conv, _PADDED_TO_SIZE + _STANDARDISED)):
        raise ValueError(f"a {type(conv).__name__} has a forward of its own, which would be lost")
    if conv.padding_mode != "zeros":
        raise ValueError(f"it pads with {conv.padding_mode!r}, the new layer with zeros")
    for name, rule in (
        ("kernel_size", "square"),
        ("stride", "equal on both axes"),
        ("dilation", "equal on both axes"),
    ):
        pair = getattr(conv, name)
        if pair[0] != pair[1]:
            raise ValueError(f"its {name} {pair} must be {rule}")
    return conv


def _padding(conv: nn.Conv2d) -> int:
    """Return the zeros on each side."""
    reach = conv.dilation[0] * (conv.kernel_size[0] - 1)
    if isinstance(conv.padding, str):
        if conv.padding == "same" and reach % 2:
            raise ValueError("its padding 'same' adds unequal zeros on the two sides")
        return reach // 2 if conv.padding == "same" else 0
    top, left = conv.padding
    if top != left:
        raise ValueError(f"its padding {conv.padding} must be equal on both axes")
    return int(top)


def _require_size_kept(conv: nn.Conv2d) -> None:
    """Raise unless the output is ``ceil(H / stride)`` at any ``H``: all that layers without padding can do."""
    kernel = conv.kernel_size[0]
    if kernel % 2 == 0:
        raise ValueError(f"its kernel of {kernel}x{kernel} is even and has no middle")
    same = conv.dilation[0] * (kernel - 1) // 2
    if not isinstance(conv, _PADDED_TO_SIZE) and _padding(conv) != same:
        raise ValueError(f"its padding {conv.padding} is not the {same} that keeps the size at stride 1")


def _contextual(conv: nn.Conv2d, **options: Any) -> nn.Module:
    options.setdefault("weight_hidden", max(8, round(conv.in_channels / conv.groups / 64) * 8))
    return ContextualConv2d(
        conv.in_channels, conv.out_channels, kernel_size=conv.kernel_size[0], stride=conv.stride[0],
        padding=_padding(conv), dilation=conv.dilation[0], groups=conv.groups, bias=conv.bias is not None,
        prior_dim=0, **options,
    )  # fmt: skip


def _cot(conv: nn.Conv2d, groups: int | None = None, key_groups: int | None = None, **options: Any) -> nn.Module:
    _require_size_kept(conv)
    if groups is None and conv.groups == conv.in_channels > 1:
        raise ValueError("it is depthwise, and a CoT layer mixes channels; pass groups=1 to let it")
    groups = conv.groups if groups is None else groups
    channels, stride = conv.out_channels, conv.stride[0]
    options.setdefault("kernel_size", conv.kernel_size[0])
    try:
        layer = CoTLayer(
            channels, dilation=conv.dilation[0], groups=groups,
            key_groups=4 * groups if key_groups is None else key_groups, **options,
        )  # fmt: skip
    except ValueError as error:
        advice = "; pass groups=1 to mix all channels instead" if groups > 1 else ""
        raise ValueError(f"{error}{advice}") from error
    window = stride + 1 - stride % 2  # odd, so that padding by half keeps the convolution's size: 3 at stride 2
    pool = nn.AvgPool2d(window, stride, window // 2) if stride > 1 else None
    return _in_series(pool=pool, project=_projection(conv, groups), cot=layer)


def _involution(conv: nn.Conv2d, group_channels: int = 16, reduction: int = 4, **options: Any) -> nn.Module:
    _require_size_kept(conv)
    channels = conv.out_channels
    options.setdefault("kernel_size", conv.kernel_size[0])
    layer = Involution2d(
        channels, stride=conv.stride[0], dilation=conv.dilation[0],
        group_channels=_largest_divisor(channels, group_channels),
        reduction=_largest_divisor(channels, reduction), **options,
    )  # fmt: skip
    return _in_series(project=_projection(conv, conv.groups), involution=layer)


_BUILDERS: dict[Kind, Callable[..., nn.Module]] = {
    "cot": _cot,
    "involution": _involution,
    "contextual": _contextual,
}
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "cot": ("kernel_size", "groups", "key_groups", "context"),
    "involution": ("kernel_size", "group_channels", "reduction"),
    "contextual": ("weight_hidden", "sampling", "modulation"),
}


def _projection(conv: nn.Conv2d, groups: int) -> nn.Module | None:
    """Return the 1x1 convolution that brings the input to the output's channels, at an unchanged scale."""
    if conv.in_channels == conv.out_channels:
        return None
    project = nn.Conv2d(conv.in_channels, conv.out_channels, 1, groups=groups, bias=False)
    nn.init.kaiming_normal_(project.weight, nonlinearity="linear")
    return project


def _in_series(**layers: nn.Module | None) -> nn.Module:
    present = OrderedDict((name, layer) for name, layer in layers.items() if layer is not None)
    return LayersInSeries(present) if len(present) > 1 else next(iter(present.values()))


class LayersInSeries(FoldsNormByUnits, nn.Sequential):
    """What brings a convolution's input to the shape that the new layer keeps, and the new layer."""

    def __init__(self, layers: "OrderedDict[str, nn.Module]") -> None:
        super().__init__(layers)
        self.out_channels = list(layers.values())[-1].out_channels  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output, ``(B, O, H', W')``."""
        y: Tensor = nn.Sequential.forward(self, x)  # type: ignore[no-untyped-call]
        return self.with_norm(y)


def _largest_divisor(number: int, at_most: int) -> int:
    return next((d for d in range(at_most, 0, -1) if number % d == 0), at_most)


def is_channels_last(model: nn.Module) -> bool:
    """Whether a network was put in channels-last: only weights of several channels and pixels can show it."""
    return any(
        module.weight.is_contiguous(memory_format=torch.channels_last) and not module.weight.is_contiguous()
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and not isinstance(module, nn.modules.lazy.LazyModuleMixin)
    )
