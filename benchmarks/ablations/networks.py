"""The networks that are compared: two families, each at equal parameters, all by constructor arguments."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

import ctxvision.models  # noqa: F401, registers our networks
from benchmarks.ablations.priors import Use, use_prior
from benchmarks.ablations.settings import Family, Size, SizeName
from ctxvision.models import count_macs

Planes = tuple[int, int, int, int]

BUDGETS: Mapping[SizeName, Mapping[Family, int]] = {
    "100": {"contextual": 333_000, "residual": 235_000},
    "400": {"contextual": 353_000},
    "all": {"contextual": 427_000},
}
"""Parameters of a network; the residual family is trained on 100 classes only."""
TOLERANCE = 0.02
"""By how much a network may miss the budget, either way."""


class Network(NamedTuple):
    """A network of the comparison."""

    family: Family
    model: str
    """timm's name."""
    planes: Mapping[SizeName, Planes]
    """Base widths of the four stages, with which the network meets the budget."""
    args: Mapping[str, Any]
    """What makes the ablation."""
    use: Use = "paper"
    """What becomes of the contextual prior."""
    offset_lr_scale: float = 1.0
    """Share of the learning rate that generators of offsets have; networks without offsets have none."""

    @property
    def has_stage_losses(self) -> bool:
        """Whether the weight α of the losses before the head means something."""
        return self.family == "contextual" and self.args.get("stages") != () and self.args.get("prior", True)


_SLOW = 0.1
"""Share of the learning rate for generators of offsets, as DCNv2's authors have it for theirs."""


def _contextual(
    hundred: Planes,
    more: Planes | None = None,
    every: Planes | None = None,
    use: Use = "paper",
    rate: float = _SLOW,
    **args: Any,
) -> Network:
    # class embeddings are narrower than a linear classifier's rows: with context one width fits all class sets
    planes: Mapping[SizeName, Planes] = {"100": hundred, "400": more or hundred, "all": every or hundred}
    return Network("contextual", "contextual_resnet50", planes, args, use, rate)


def _cot(planes: Planes, **args: Any) -> Network:
    return Network("residual", "cotnet_micro", {"100": planes}, {"stem_width": 16, **args})  # as wide as RedNet's


_RERANK: Mapping[str, Any] = {"selection": "rerank"}  # the authors' code; `contextual_reduce` is the paper's rule
_FULL = (16, 32, 48, 63)

_NETWORKS: dict[str, Network] = {
    "plain": _contextual((16, 32, 48, 93), (16, 32, 48, 73), (16, 32, 48, 43), rate=1.0, stages=()),
    "deformable": _contextual(
        (16, 32, 48, 90), (16, 32, 48, 71), (16, 32, 48, 42), prior=False, weight_offsets=False
    ),
    "no_prior": _contextual((16, 32, 48, 83), (16, 32, 48, 67), (16, 32, 48, 40), prior=False),
    "zero_prior": _contextual(_FULL, use="zero", **_RERANK),
    "extra_input": _contextual((16, 32, 56, 61), rate=1.0, extra_input=True, **_RERANK),
    "weight_offsets": _contextual((16, 32, 48, 65), sampling_offsets=False, **_RERANK),
    "contextual": _contextual(_FULL, **_RERANK),
    "contextual_reduce": _contextual(_FULL),
    "centred": _contextual(_FULL, use="centred", **_RERANK),
    "weighted": _contextual(_FULL, use="weighted", **_RERANK),
    "resnet": _cot((16, 32, 48, 62), cot_stages=()),
    "involution": Network("residual", "rednet_micro", {"100": (32, 32, 64, 64)}, {}),
    "cot_static": _cot((16, 32, 64, 64), context="static"),
    "cot_dynamic": _cot((16, 32, 64, 56), context="dynamic"),
    "cot_linear": _cot((16, 32, 64, 56), context="linear"),
    "cot": _cot((16, 32, 72, 40)),
}
ONE_RATE = "_one_rate"
NETWORKS: Mapping[str, Network] = _NETWORKS | {
    f"{name}{ONE_RATE}": network._replace(offset_lr_scale=1.0)
    for name, network in _NETWORKS.items()
    if network.offset_lr_scale != 1
}
"""By name; where `ONE_RATE` is the end, generators of offsets learn as fast as all else, as the paper has it."""


class Cost(NamedTuple):
    """What a network has and does."""

    params: int
    macs: int
    """Multiply-adds of one image, see `count_macs`."""


def names_of(size: Size) -> list[str]:
    """Return the networks that are compared at a size, in the order of the comparison."""
    return [name for name, network in NETWORKS.items() if size.name in network.planes]


def build(name: str, size: Size) -> nn.Module:
    """Return a new network for the classes of a size.

    Raises:
        ValueError: If there is no such network.
    """
    if name not in names_of(size):
        raise ValueError(f"no network {name} at size {size.name}; there are {', '.join(names_of(size))}")
    network = NETWORKS[name]
    model: nn.Module = timm.create_model(network.model, **arguments(name, size))
    use_prior(model, network.use)
    return model


def arguments(name: str, size: Size) -> dict[str, Any]:
    """Return all arguments of a network's constructor."""
    network = NETWORKS[name]
    return {
        "num_classes": size.num_classes,
        "planes": network.planes[size.name],
        **size.shared[network.family],
        **network.args,
    }


def cost(name: str, size: Size) -> Cost:
    """Return parameters and multiply-adds."""
    with torch.device("meta"):
        model = build(name, size).eval()
        macs = count_macs(model, (3, size.side, size.side))
    return Cost(sum(parameter.numel() for parameter in model.parameters()), macs)
