"""What the frames of a clip say together: segment consensus, and its loss."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.nn import ContextualOutput
from ctxvision.nn.contextual_loss import LossClasses


class ClipOutput(NamedTuple):
    """What a contextual network says about clips."""

    logits: Tensor
    """``(B, num_classes)``; a class that every frame has dropped ranks below every one that some frame kept."""
    scores: tuple[Tensor, ...]
    """Cosine scores up to each step, means over the frames, ``(B, num_classes)`` each."""
    considered: tuple[Tensor, ...]
    """Which classes at least one frame considered at each step, ``(B, num_classes)`` bool."""
    temperature: Tensor
    """τ, a scalar."""
    all_scores: tuple[Tensor, ...] = ()
    """In training mode the mean scores of each step for all classes, ``(B, num_classes)`` each."""


def clip_consensus(output: ContextualOutput | Tensor, frames: int) -> ClipOutput | Tensor:
    """Combine the frames of each clip to one answer (B, num_classes).

    Logits of a plain network are averaged, as TSN and TSM do. The frames of a contextual one have each their own
    class sets, and a class that one frame has dropped early may be clear in the next. So what is averaged is the
    last score that each frame gave a class, whenever that was; the clip considers a class as long as one of its
    frames does, and has dropped it when all have. One frame, or copies of it, give what the network says itself.

    Args:
        output: The logits of frames, those of a clip one after the other, ``(B * frames, num_classes)``, or a
            `ContextualOutput` of them.
        frames: The number of frames of a clip.
    """
    if isinstance(output, Tensor):
        mean: Tensor = output.unflatten(0, (-1, frames)).mean(1)
        return mean
    rows, num_classes = output.logits.shape
    last = output.scores[0].new_zeros(rows, num_classes)
    scores, considered = [], []
    for step, classes in zip(output.scores, output.classes, strict=True):
        last = last.scatter(1, classes, step)
        scores.append(last.unflatten(0, (-1, frames)).mean(1))
        members = torch.zeros_like(last, dtype=torch.bool).scatter(1, classes, True)
        considered.append(members.unflatten(0, (-1, frames)).any(1))
    temperature = output.temperature
    # the network lowers the logits of classes that it dropped by more than 2 / τ
    kept = output.logits - last / temperature > -1 / temperature
    dropped = ~kept.unflatten(0, (-1, frames)).any(1)
    logits = scores[-1] / temperature - (2 / temperature.detach() + 1) * dropped
    all_scores = tuple(step.unflatten(0, (-1, frames)).mean(1) for step in output.all_scores)
    return ClipOutput(logits, tuple(scores), tuple(considered), temperature, all_scores)


class ClipLoss(nn.Module):
    """Cross-entropy of clips; for contextual networks equations 1 and 2 of Contextual CNN, with clips for samples.

    A step's softmax runs over the classes that the clip still considers there; a clip whose class has been dropped
    by all its frames contributes zero. With one frame per clip this is `ctxvision.nn.ContextualLoss`.

    Args:
        alpha: The weight of all steps but the last.
        label_smoothing: The share of the target that is spread evenly over the classes that a step considers.
        over: The classes that the softmax of a step runs over, as in `ctxvision.nn.ContextualLoss`.

    Shape:
        The input is what `clip_consensus` returns, and classes ``(B,)`` or probabilities ``(B, num_classes)``;
        the output is a scalar.
    """

    def __init__(
        self, alpha: float = 0.15, label_smoothing: float = 0.0, over: LossClasses = "considered"
    ) -> None:
        super().__init__()
        self.alpha, self.label_smoothing, self.over = alpha, label_smoothing, over

    def forward(self, output: ClipOutput | Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch of B clips, a scalar; the class describes the arguments."""
        if isinstance(output, Tensor):
            return F.cross_entropy(output.float(), target, label_smoothing=self.label_smoothing)
        wanted = F.one_hot(target, output.logits.shape[1]) if target.dim() == 1 else target
        scored = list(zip(output.scores, output.considered, strict=True))
        if self.over == "all" and output.all_scores:
            scored = [(scores, torch.ones_like(scores, dtype=torch.bool)) for scores in output.all_scores]
        steps = [
            self._step(scores / output.temperature, considered, wanted.to(scores.dtype))
            for scores, considered in scored
        ]
        loss = steps[-1]
        for step in steps[:-1]:
            loss = loss + self.alpha * step
        return loss

    def _step(self, logits: Tensor, considered: Tensor, wanted: Tensor) -> Tensor:
        wanted = wanted * considered
        mass = wanted.sum(1, keepdim=True)
        share = considered.to(logits.dtype) / considered.sum(1, keepdim=True) * (mass > 0)
        wanted = wanted / torch.where(mass > 0, mass, 1)
        wanted = (1 - self.label_smoothing) * wanted + self.label_smoothing * share
        log_p = F.log_softmax(logits.masked_fill(~considered, -torch.inf), dim=1).masked_fill(~considered, 0.0)
        return -(wanted * log_p).sum(1).mean()
