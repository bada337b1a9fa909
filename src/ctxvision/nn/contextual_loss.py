"""The loss of Contextual CNN: cross entropy over the classes that each stage still considers."""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.ops._derivatives import transforms_active

from .funnel import ContextualOutput

LossClasses = Literal["considered", "all"]


class ContextualLoss(nn.Module):
    """Equations 1 and 2 of Contextual CNN, for hard and soft targets.

        L_i = -[y ∈ N_i] · log( exp(s_i(y) / τ) / Σ_j exp(s_i(N_i^j) / τ) )
        L   = α · (L_1 + L_2 + ...) + L_last

    A hard target whose class a stage no longer considers contributes zero there. A soft target (mixup, cutmix,
    smoothing) is renormalised over the classes still considered; a sample with none left contributes zero.

    ``over="all"`` departs from the paper: the softmax of every stage runs over all classes, so that a sample whose
    class was dropped trains the stages after like any other. With few images that decides whether a network with
    ``selection="reduce"`` learns at all. Outputs of evaluation mode, which lack those scores, are treated as
    ``"considered"``.

    Args:
        alpha: Weight of the losses of all stages but the last.
        label_smoothing: Share of the target that is spread evenly over the classes that a stage considers.
        over: Classes that the softmax of a stage runs over: those that it still ``"considered"``, or ``"all"``.
        reduction: Way in which the losses of the samples become one: ``"mean"`` averages over the batch, including
            samples that contribute zero; ``"sum"`` adds; ``"none"`` returns one loss per sample.

    Shape:
        A `ContextualOutput` and a target, ``(B,)`` class indices or ``(B, num_classes)`` probabilities, to a
        scalar, or ``(B,)`` without reduction.

    Raises:
        ValueError: If an argument is out of range, or the target has another shape or type, or (checked on the
            CPU) holds a class or a share that there is not.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.15,
        label_smoothing: float = 0.0,
        over: LossClasses = "considered",
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__()
        if alpha < 0 or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"ContextualLoss: alpha must be >= 0 and label_smoothing in [0, 1), got {alpha}, {label_smoothing}"
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"ContextualLoss: reduction must be mean, sum or none, got {reduction!r}")
        if over not in get_args(LossClasses):
            raise ValueError(f"ContextualLoss: over must be considered or all, got {over!r}")
        self.alpha, self.label_smoothing, self.reduction, self.over = alpha, label_smoothing, reduction, over

    def forward(self, output: ContextualOutput, target: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            output: Scores and class sets of the stages, each ``(B, N_i)``, and the logits, ``(B, num_classes)``.
            target: Class indices, ``(B,)`` integers, or probabilities, ``(B, num_classes)``.

        Returns:
            The loss, a scalar, or ``(B,)`` without reduction.
        """
        batch, num_classes = output.logits.shape
        if target.shape not in ((batch,), (batch, num_classes)):
            raise ValueError(
                f"ContextualLoss: target must be (B,) = ({batch},) class indices or (B, num_classes) = "
                f"({batch}, {num_classes}) probabilities, got {tuple(target.shape)}"
            )
        self._check_values(target, num_classes)
        scored: Iterable[tuple[Tensor, Tensor]] = zip(output.scores, output.classes, strict=True)
        if self.over == "all" and output.all_scores:
            everything = torch.arange(num_classes, device=output.logits.device).expand(batch, -1)
            scored = ((scores, everything) for scores in output.all_scores)
        stages = [
            self._stage(scores.to(output.temperature.dtype) / output.temperature, classes, target)
            for scores, classes in scored
        ]
        loss = stages[-1]
        for stage in stages[:-1]:
            loss = loss + self.alpha * stage
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    @staticmethod
    def _check_values(target: Tensor, num_classes: int) -> None:
        if target.dim() == 1 and (target.is_floating_point() or target.dtype == torch.bool):
            raise ValueError(f"ContextualLoss: class indices must be integers, got {target.dtype}")
        # elsewhere than on the CPU looking at values would stall the device
        if target.device.type != "cpu" or target.numel() == 0 or torch.compiler.is_compiling():
            return
        if transforms_active():  # nor has the target of a call under `torch.vmap` a value
            return
        lowest, highest = target.min().item(), target.max().item()
        if target.dim() == 1 and not 0 <= lowest <= highest < num_classes:
            raise ValueError(
                f"ContextualLoss: classes must lie in 0..{num_classes - 1}, got {lowest:g}..{highest:g}; "
                "there is no ignore_index, leave such samples out"
            )
        if target.dim() == 2 and not lowest >= 0:
            raise ValueError(f"ContextualLoss: probabilities must be >= 0, got {lowest:g}")

    def _stage(self, logits: Tensor, classes: Tensor, target: Tensor) -> Tensor:
        """Return equation 1 per sample, (B,)."""
        if target.dim() == 1:
            wanted = (classes == target[:, None]).to(logits.dtype)
        else:
            wanted = target.to(logits.dtype).gather(1, classes)
        mass = wanted.sum(1, keepdim=True)
        considered = (mass > 0).to(logits.dtype)
        wanted = wanted / torch.where(mass > 0, mass, 1)
        wanted = (1 - self.label_smoothing) * wanted + self.label_smoothing / classes.shape[1] * considered
        return -(wanted * F.log_softmax(logits, dim=1)).sum(1)
