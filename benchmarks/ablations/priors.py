"""What becomes of the contextual prior: as in the paper, or controls and changes, through hooks of the network.

The hooks stand at the layers that merge the chosen classes into a prior, so that network, head and losses stay the
same whatever the prior holds.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctxvision.nn import ClassContext
from ctxvision.nn.class_context import ClassStep

Use = Literal["paper", "zero", "centred", "weighted"]
"""``zero`` makes the prior zero, in training too. ``centred`` subtracts the mean over all classes before merging:
what all class sets have in common cannot drown what tells them apart. ``weighted`` merges the chosen classes by
the softmax of their scores over 0.07, where τ starts, not all alike."""

Change = Callable[[str, ClassContext, Tensor, ClassStep], Tensor]
"""From the stage, its layer, the class embeddings and what it found out to another prior, ``(B, d)``."""


def use_prior(model: nn.Module, use: Use) -> None:
    """Make a network use its prior otherwise than the paper, for good."""
    if use != "paper":
        _change(model, {"zero": _zero, "centred": _centred, "weighted": _weighted}[use])


@contextlib.contextmanager
def changed(model: nn.Module, change: Change) -> Iterator[None]:
    """Change the prior for a while."""
    handles = _change(model, change)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def zero() -> Change:
    """Return a change: no prior."""
    return _zero


def constant(priors: Mapping[str, Tensor]) -> Change:
    """Return a change: for each stage the same prior for all images, such as the mean."""
    return lambda stage, layer, table, step: priors[stage].expand(len(step.kept), -1)


def of_another() -> Change:
    """Return a change: the prior of the image before in the batch."""
    return lambda stage, layer, table, step: _prior(step).roll(1, 0)


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the priors of each stage, ``(B, d)`` for each batch."""
    found: dict[str, list[Tensor]] = {}

    def keep(stage: str, layer: ClassContext, table: Tensor, step: ClassStep) -> Tensor:
        found.setdefault(stage, []).append(_prior(step).detach())
        return _prior(step)

    with changed(model, keep):
        yield found


def image_dependent(priors: Tensor) -> float:
    """Return how far priors ``(N, d)`` lie from their mean, as a share of their length, both on average."""
    length = float(priors.norm(dim=1).mean())
    return float((priors - priors.mean(0)).norm(dim=1).mean()) / length if length else 0.0


def _change(model: nn.Module, change: Change) -> list[Any]:
    context: Any = model.context

    def hook(stage: str) -> Callable[[ClassContext, tuple[Any, ...], ClassStep], ClassStep]:
        return lambda layer, given, step: step._replace(prior=change(stage, layer, given[1], step))

    return [layer.register_forward_hook(hook(stage)) for stage, layer in context.steps.items()]


def _prior(step: ClassStep) -> Tensor:
    assert step.prior is not None  # of a stage
    return step.prior


def _zero(stage: str, layer: ClassContext, table: Tensor, step: ClassStep) -> Tensor:
    return torch.zeros_like(_prior(step))


def _centred(stage: str, layer: ClassContext, table: Tensor, step: ClassStep) -> Tensor:
    assert layer.embed is not None
    assert layer.merge is not None
    embedded = layer.embed(table)
    merged: Tensor = layer.merge(embedded[step.kept].mean(1) - embedded.mean(0))
    return merged


def _weighted(stage: str, layer: ClassContext, table: Tensor, step: ClassStep) -> Tensor:
    assert layer.embed is not None
    assert layer.merge is not None
    best = step.scores.topk(step.kept.shape[1], dim=1).values  # in the order of `kept`
    share = torch.softmax(best / 0.07, 1)
    merged: Tensor = layer.merge((layer.embed(table)[step.kept] * share[..., None]).sum(1))
    return merged
