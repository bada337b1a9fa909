"""Network surgery: put the layers of the three families where a finished network has spatial convolutions."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ._conv_selection import ConvSelection, NamedConv, Where, select
from ._conv_successors import OPTIONS, Kind, is_channels_last, successor
from .contextual_conv import ContextualConv2d
from .cot import CoTLayer
from .involution import Involution2d

_OWN_LAYERS = (CoTLayer, Involution2d, ContextualConv2d)


@dataclass(frozen=True)
class ConvReplacement:
    """What `replace_convs` makes of one convolution.

    Attributes:
        name: Name under which the network holds the convolution.
        aliases: Further names of the same convolution, if it is used several times.
        old: Text of the convolution, as it prints.
        new: Types of the layers that take its place, or ``None`` if it stays.
        reason: Why the convolution stays, or ``None`` if it is replaced.
    """

    name: str
    aliases: tuple[str, ...]
    old: str
    new: str | None
    reason: str | None

    def __str__(self) -> str:
        name = " = ".join((self.name or "(the network itself)", *self.aliases))
        return f"{name}: {self.old} -> {self.new}" if self.reason is None else f"{name}: stays, {self.reason}"


@dataclass(frozen=True)
class ReplacementPlan:
    """What `replace_convs` does to a network.

    Attributes:
        kind: Kind of the new layers, ``"cot"``, ``"involution"`` or ``"contextual"``.
        replaced: The convolutions that are replaced.
        left: The convolutions that were meant, or belong to the stem, and stay.
    """

    kind: str
    replaced: tuple[ConvReplacement, ...]
    left: tuple[ConvReplacement, ...]

    def __str__(self) -> str:
        lines = [f"{self.kind}: {len(self.replaced)} convolutions replaced, {len(self.left)} left"]
        return "\n".join([*lines, *(f"  {item}" for item in (*self.replaced, *self.left))])


def plan_replacements(model: nn.Module, kind: Kind, where: Where = None, **options: Any) -> ReplacementPlan:
    """Say what `replace_convs` would do with the same arguments; the network is not touched.

    Args:
        model: Network whose convolutions are looked at.
        kind: Kind of the new layers, ``"cot"``, ``"involution"`` or ``"contextual"``.
        where: Choice of convolutions by stage, name, pattern or predicate, as `replace_convs` describes it.
        **options: Options of the new layers, as `replace_convs` lists them.

    Returns:
        Every convolution that is meant, with what it becomes or why it stays; in the default selection the
        stem's as well.

    Raises:
        ValueError: If ``kind`` is unknown or ``where`` matches nothing.
        TypeError: If the layers have no such option.

    Examples:
        >>> import timm
        >>> from ctxvision.nn import plan_replacements
        >>> plan = plan_replacements(timm.create_model("resnet18"), "involution", where=[4], kernel_size=7)
        >>> [conv.name for conv in plan.replaced]
        ['layer4.0.conv1', 'layer4.0.conv2', 'layer4.1.conv1', 'layer4.1.conv2']
        >>> plan.replaced[0].new
        'Conv2d -> Involution2d'
    """
    return _plan(model, kind, options, select(model, where, _OWN_LAYERS))


def replace_convs(model: nn.Module, kind: Kind, where: Where = None, **options: Any) -> nn.Module:
    """Replace the spatial convolutions of a CNN by layers that see context, in place.

    Output shapes stay the same at every input size, and so do stride, dilation, device, dtype, memory format
    and training mode; norms and activations around a convolution stay where they are. A convolution that is
    used in several places stays one layer. Only convolutions with a kernel larger than one pixel are looked
    at. Either all that is asked for is done, or the network is not touched.

    * ``"contextual"`` keeps weight, bias, groups and their place in the state dict, and adds generators of
      weight and sampling offsets, without a prior. Those start at zero: at first the network computes what it
      did before. Source: Contextual CNN, ICLR 2023, section 3.3.
    * ``"cot"`` puts a `CoTLayer` of the same kernel size. Its stride is an average pool before it (3x3,
      padding 1 at stride 2), as in CoTNet; a convolution of ``g`` groups becomes a CoT layer of ``g`` groups.
    * ``"involution"`` puts an `Involution2d` of the same kernel size, with the stride. As many channels as
      divide evenly, 16 at most, share a kernel. It never sums over channels, so any number of groups will do.

    The last two start from new weights, drop the bias, and where a convolution changes the number of channels,
    have a 1x1 convolution for that in front. New parameters require gradients even in a frozen network; the
    old ones of ``"contextual"`` keep their setting.

    Args:
        model: Network of timm, of torchvision or your own; load its weights first.
        kind: Kind of the new layers, ``"cot"``, ``"involution"`` or ``"contextual"``.
        where: Choice of convolutions. ``None`` means everything outside the stem, as timm defines it; in other
            networks the stem is the part with the first convolution, if that has at most 4 input channels. It can
            also be one or a list of stage numbers, names of modules and patterns (``"layer3"``,
            ``"layer*.conv2"``), where stage 1 has stride 4, as ResNet's ``layer1``, or a predicate ``(name, conv)
            -> bool``. A convolution given by its own full name must be replaceable; whatever wider choices contain
            that cannot be replaced stays (`plan_replacements` lists it).
        **options: Options of the new layers. ``"cot"`` takes ``kernel_size``, ``groups``, ``key_groups`` and
            ``context``; ``"involution"`` takes ``kernel_size`` (7 in RedNet), ``group_channels`` and
            ``reduction``; ``"contextual"`` takes ``weight_hidden`` (by default an eighth of a group's channels,
            at least 8), ``sampling`` and ``modulation``.

    Returns:
        The same network; a new layer if ``model`` is itself the convolution.

    Raises:
        ValueError: If ``kind`` is unknown, ``where`` or one of its entries matches nothing that can be
            replaced, or a convolution given by name cannot be; the message names the layers and the reason.
        TypeError: If the layers have no such option.

    Shape:
        Each new layer maps ``(B, C, H, W)`` to ``(B, O, H', W')``, as the convolution did.

    Examples:
        >>> import timm, torch
        >>> from ctxvision.nn import replace_convs
        >>> model = replace_convs(timm.create_model("resnet18"), "cot", where=[3, 4])
        >>> model(torch.randn(2, 3, 65, 65)).shape
        torch.Size([2, 1000])
        >>> type(model.layer4[1].conv2).__name__
        'CoTLayer'
    """
    selection = select(model, where, _OWN_LAYERS)
    plan = _plan(model, kind, options, selection)
    _require_all(plan, selection)
    tied, channels_last = _tied_tensors(model), is_channels_last(model)
    replaced = {item.name for item in plan.replaced}
    new = {
        place: successor(place.conv, kind, options, id(place.conv.weight) in tied)
        for place in selection.chosen
        if place.names[0] in replaced
    }
    for place, layer in new.items():
        if channels_last:
            cast(Any, layer).to(memory_format=torch.channels_last)
        for name in place.names:
            if not name:
                return layer
            parent, _, leaf = name.rpartition(".")
            model.get_submodule(parent).register_module(leaf, layer)
    return model


def _plan(model: nn.Module, kind: Kind, options: dict[str, Any], selection: ConvSelection) -> ReplacementPlan:
    if kind not in OPTIONS:
        raise ValueError(f"replace_convs: kind must be {', '.join(map(repr, OPTIONS))}, got {kind!r}")
    unknown = [name for name in options if name not in OPTIONS[kind]]
    if unknown:
        raise TypeError(
            f"replace_convs: {kind!r} takes no option {unknown[0]!r}; it takes {', '.join(OPTIONS[kind])}"
        )
    replaced, left = [], [_item(place, None, reason) for place, reason in selection.left]
    tied, nowhere = _tied_tensors(model), torch.device("meta")
    if kind == "contextual" and any(isinstance(m, ContextualConv2d) and m.prior_dim for m in model.modules()):
        raise ValueError(
            "replace_convs: the network has contextual convolutions with a prior and would hand it to these too, "
            "which have none; choose the contextual stages when you create it"
        )
    for place in selection.chosen:
        try:
            layer = successor(place.conv, kind, options, id(place.conv.weight) in tied, nowhere)
        except ValueError as error:
            left.append(_item(place, None, str(error)))
        else:
            replaced.append(_item(place, layer, None))
    return ReplacementPlan(kind, tuple(replaced), tuple(left))


def _item(place: NamedConv, layer: nn.Module | None, reason: str | None) -> ConvReplacement:
    parts = layer if isinstance(layer, nn.Sequential) else [layer]
    new = None if layer is None else " -> ".join(type(part).__name__ for part in parts)
    return ConvReplacement(place.names[0], place.names[1:], str(place.conv), new, reason)


def _require_all(plan: ReplacementPlan, selection: ConvSelection) -> None:
    """Raise unless every named convolution can be replaced, and at least one of every wider choice."""
    left = {item.name: item for item in plan.left}
    for place in selection.chosen:
        if selection.exact & set(place.names) and place.names[0] in left:
            item = left[place.names[0]]
            raise ValueError(f"replace_convs: {item.name or item.old} cannot become {plan.kind!r}: {item.reason}")
    replaced = {item.name for item in plan.replaced}
    for entry, places in selection.entries:
        if any(place.names[0] in replaced for place in places):
            continue
        if not places:
            raise ValueError(f"replace_convs: {entry} has no spatial convolution")
        reasons = Counter(str(left[place.names[0]].reason) for place in places)
        first = {str(left[place.names[0]].reason): place.names[0] for place in reversed(places)}
        told = "; ".join(f"{first[reason]}{f' and {n - 1} more' * (n > 1)}: {reason}"
                         for reason, n in reasons.most_common(3))  # fmt: skip
        raise ValueError(f"replace_convs: nothing in {entry} can become {plan.kind!r}: {told}")


def _tied_tensors(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that more than one layer owns."""
    owners = Counter(
        id(tensor) for module in model.modules() for tensor in module._parameters.values() if tensor is not None
    )
    return {tensor for tensor, count in owners.items() if count > 1}
