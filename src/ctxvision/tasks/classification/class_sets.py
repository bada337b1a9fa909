"""Class sets of a contextual network: what each stage scored and kept, how often the true class survives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ctxvision.nn import ContextualOutput
from ctxvision.nn.class_context import class_counts

if TYPE_CHECKING:
    from ctxvision.models._contextual_net import ContextualNet


@dataclass(frozen=True)
class FunnelStep:
    """One step of the funnel for a batch.

    Attributes:
        name: The name of the step: ``"stage 2"``, …, ``"head"``.
        classes: The classes that were scored, (B, n) int64.
        scores: The cosine similarities, (B, n), aligned with ``classes``.
        kept: The classes that went on, (B, m) int64; at the head the answer alone, (B, 1).
    """

    name: str
    classes: Tensor
    scores: Tensor
    kept: Tensor

    def considers(self, targets: Tensor) -> Tensor:
        """Tell for which samples the class ``targets`` (B,) was scored, (B,) bool."""
        return (self.classes == targets[:, None]).any(1)

    def keeps(self, targets: Tensor) -> Tensor:
        """Tell for which samples the class ``targets`` (B,) went on, (B,) bool."""
        return (self.kept == targets[:, None]).any(1)


def is_contextual(model: nn.Module) -> "TypeGuard[ContextualNet]":
    """Tell whether a network narrows its classes down on the way; a design without contextual stages does not."""
    return hasattr(model, "forward_stages") and getattr(model, "context", None) is not None


def kept_classes(model: nn.Module, output: ContextualOutput) -> list[Tensor]:
    """Return the class set of each contextual stage, what it kept of those that it scored.

    Args:
        model: A network for which `is_contextual` holds.
        output: The output of the network's ``forward_stages``.

    Returns:
        The classes (B, m) int64 that each of ``model.contextual_stages`` kept.

    Raises:
        ValueError: The network has no class sets.
    """
    if not is_contextual(model) or (funnel := model.context) is None:
        raise ValueError("the network does not narrow its classes down, so it has no class sets")
    if funnel.selection == "reduce":
        return list(output.classes[1:])
    counts = class_counts(funnel.num_classes, funnel.ratios)
    return [
        classes.gather(1, scores.topk(counts[stage - 1], 1).indices)
        for stage, classes, scores in zip(model.contextual_stages, output.classes, output.scores, strict=False)
    ]


def funnel_steps(model: nn.Module, output: ContextualOutput) -> list[FunnelStep]:
    """Name the steps of an output of ``model.forward_stages``, and find what each of them kept."""
    kept_by_stage = kept_classes(model, output)
    stages = model.contextual_stages if is_contextual(model) else ()
    parts = zip(stages, output.classes, output.scores, kept_by_stage, strict=False)
    steps = [FunnelStep(f"stage {stage}", classes, scores, kept) for stage, classes, scores, kept in parts]
    answer = output.logits.argmax(1, keepdim=True)
    return [*steps, FunnelStep("head", output.classes[-1], output.scores[-1], answer)]


class ClassSetRecall(Metric):
    """Measures the share of the images whose true class is in the class set of each stage, over all processes.

    Args:
        stages: The number of contextual stages.
    """

    full_state_update = False

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.survived: Tensor
        self.images: Tensor
        self.add_state("survived", torch.zeros(stages, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, kept: Sequence[Tensor], targets: Tensor) -> None:
        """Count a batch.

        Args:
            kept: The classes that `kept_classes` returned, (B, m) for each stage.
            targets: The true classes, (B,).
        """
        self.survived += torch.stack([(classes == targets[:, None]).any(1).sum() for classes in kept])
        self.images += len(targets)

    def compute(self) -> Tensor:
        """Return the share for each stage, (stages,)."""
        return self.survived / self.images
