"""Handles that tell counters of multiply-adds what our operators cost.

Counters that hook modules do not see what an operator of ours does: they count the layers around it, of a
contextual network a quarter to two thirds. `ctxvision.models.count_macs` and fvcore need no handles; torchinfo
takes none.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d


def layer_macs(layer: nn.Module, *inputs: Tensor | None, own: bool = False) -> int:
    """Return the multiply-adds of a call of a layer, counted on a copy without values.

    Args:
        layer: Layer whose cost is asked for.
        *inputs: Arguments of the call, of which only the shapes matter.
        own: Whether what the layer's own parts compute is left out.
    """
    shadow = copy.deepcopy(layer).to("meta")
    for module in shadow.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    arguments = [x if x is None else x.to("meta") for x in inputs]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # not by a call: counters replace `forward` and hook calls
        type(shadow).forward(shadow, *arguments)
    counts = {place: sum(by_operator.values()) for place, by_operator in counter.get_flop_counts().items()}
    parts = sum(count for place, count in counts.items() if place != "Global" and "." not in place)
    return int(counts.get("Global", 0) - (parts if own else 0)) // 2


def _adds_to(attribute: str, own: Callable[[], bool]) -> Callable[[Any, Sequence[Any], Any], None]:
    def handle(layer: Any, inputs: Sequence[Any], output: Any) -> None:
        setattr(layer, attribute, getattr(layer, attribute) + layer_macs(layer, *inputs, own=own()))

    return handle


def _thop_counts_parts() -> bool:
    """Whether thop adds the parts of a layer with a handle: ultralytics' edition does, the original does not."""
    import thop

    return int(str(thop.__version__).partition(".")[0]) >= 2


_LAYERS: tuple[type[nn.Module], ...] = (CoTLayer, Involution2d, ContextualConv2d)

THOP: Mapping[type[nn.Module], Any] = dict.fromkeys(_LAYERS, _adds_to("total_ops", _thop_counts_parts))
"""For ``thop.profile(model, (images,), custom_ops=THOP)``."""

PTFLOPS: dict[type[nn.Module], Any] = dict.fromkeys(_LAYERS, _adds_to("__flops__", lambda: False))
"""For ``ptflops.get_model_complexity_info(model, (3, 224, 224), custom_modules_hooks=PTFLOPS)``."""
