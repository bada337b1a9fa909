"""The class funnel: embeddings, temperature and the steps that narrow the classes down through the network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctxvision.ops._derivatives import transforms_active

from ._checks import NormKind, refuse_scripting
from ._tracing import is_traced, leaf
from .class_context import ClassContext, ClassStep, class_counts

ClassSelection = Literal["reduce", "rerank"]

_LOWEST, _HIGHEST = 0.01, 0.2
"""Bounds of τ: from below as CLIP's; at 0.2 a cosine of 1 is still 150 times as likely as one of 0."""

_BOUNDS = math.log(1 / _HIGHEST), math.log(1 / _LOWEST)

_RATE = 0.01
"""Share of its gradient that τ learns by.

The derivative by log τ is about 1, that by a single weight a small fraction of it: at a learning rate of SGD that
suits the weights, τ would leave its bounds within a few steps. Optimisers that divide by the size of the gradient,
as AdamW does, move log τ by the learning rate in each step, and do not notice.
"""


class ContextualOutput(NamedTuple):
    """Everything a contextual network says about a batch; `ContextualLoss` takes it whole."""

    logits: Tensor
    """``(B, num_classes)``: scores over τ; every class that was dropped ranks below every one that was kept."""
    scores: tuple[Tensor, ...]
    """Cosine scores of each step, first stage to head, ``(B, N_i)`` each."""
    classes: tuple[Tensor, ...]
    """The classes that each step scored, ``(B, N_i)`` int64, aligned with ``scores``."""
    temperature: Tensor
    """τ, a scalar."""


class ClassEmbedding(nn.Embedding):
    """One embedding per class, the classifier of a contextual network.

    A classifier in timm has a bias, which its training script scales. Here that is one of no elements.

    Args:
        num_classes: Number of classes.
        dim: Width ``d`` of the embeddings.
        **placed: ``device`` and ``dtype`` of the parameters.
    """

    bias: Tensor

    def __init__(self, num_classes: int, dim: int, **placed: Any) -> None:
        super().__init__(num_classes, dim, **placed)
        self.register_buffer("bias", torch.empty(0, **placed), persistent=False)

    def reset_parameters(self) -> None:
        """Draw new embeddings of about unit length, by as many random numbers as before there was this class."""
        super().reset_parameters()
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)


class ClassFunnel(nn.Module):
    """The one class-embedding table of a network, its temperature, and a `ClassContext` per contextual stage.

    Contextual CNN, sections 3.1 and 3.2. τ starts at 0.07 and is learned as ``log(1 / τ)`` (Radford et al., 2021),
    within 0.01 and 0.2, at a rate that fits every optimiser: its gradient is a hundredth of the loss's derivative,
    so that SGD at the learning rate of the weights moves it about as far as AdamW does. In training mode the
    parameter itself is first brought back within its bounds, as CLIP's training does after each step.

    Class sets are nested, and each sample has its own.

    Args:
        num_classes: Number of all classes, ``N_1``.
        dim: Width ``d`` of the class embeddings.
        channels: Number of channels of the features that enter each contextual stage, by stage number (1 to 4).
        head_channels: Number of channels of the last stage.
        hidden: Width inside the projection of each contextual stage, by stage number.
        head_hidden: Width inside the projection of the head.
        merge_hidden: Width inside the merging.
        prior_dims: Width of the prior of each contextual stage, by stage number; ``None`` for ``dim``.
        norm: Norm of the projections, ``"layer"`` or ``"batch"``.
        ratios: Shares of ``num_classes`` that stages 1 to 4 consider.
        selection: Choice of the classes that a step considers: ``"reduce"`` narrows the classes step by step (the
            paper); ``"rerank"`` lets every step choose among all of them again (the authors' released code, which
            calls it more stable).
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        num_classes: int,
        *,
        dim: int,
        channels: Mapping[int, int],
        head_channels: int,
        hidden: Mapping[int, int],
        head_hidden: int,
        merge_hidden: int,
        prior_dims: Mapping[int, int] | None = None,
        norm: NormKind = "layer",
        ratios: Sequence[float] = (1.0, 0.5, 0.2, 0.05),
        selection: ClassSelection = "reduce",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        if selection not in ("reduce", "rerank"):
            raise ValueError(f"selection must be 'reduce' or 'rerank', got {selection!r}")
        class_counts(num_classes, ratios)  # refuses ratios that do not fit
        self.ratios, self.selection = tuple(ratios), selection
        self.embedding = ClassEmbedding(num_classes, dim, **placed)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07), **placed))
        self.steps = nn.ModuleDict(
            {
                str(stage): ClassContext(
                    width,
                    dim=dim,
                    hidden=hidden[stage],
                    merge_hidden=merge_hidden,
                    prior_dim=None if prior_dims is None else prior_dims[stage],
                    norm=norm,
                    **placed,
                )
                for stage, width in channels.items()
            }
        )
        self.head: ClassContext | None = ClassContext(
            head_channels, dim=dim, hidden=head_hidden, norm=norm, **placed
        )

    @property
    def num_classes(self) -> int:
        """``N_1``, the rows of the embedding table."""
        return self.embedding.num_embeddings

    @property
    def temperature(self) -> Tensor:
        """τ, not below 0.01 and not above 0.2, at least in float32.

        The bounds let the gradient through, as CLIP's does: τ can come back after one was reached.
        """
        return _temperature(self.logit_scale)

    def reset(self, num_classes: int) -> None:
        """Start over with new embeddings for ``num_classes`` classes; everything else stays."""
        old = self.embedding.weight
        self.embedding = ClassEmbedding(num_classes, old.shape[1], device=old.device, dtype=old.dtype)

    def remove_head(self) -> None:
        """Keep only what features depend on: no head, and nothing that learns by the scores alone."""
        self.head = None
        self.logit_scale.requires_grad_(False)
        for step in self.steps.values():
            step.projection.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as it is.

        A network that is rebuilt from its children, as torchvision's ``IntermediateLayerGetter`` does, calls them
        one after the other. The funnel is the first, so that it belongs to the new network; it works within the
        stages.
        """
        return x

    def narrow(
        self, stage: int, x: Tensor, steps: Sequence[tuple[Tensor | None, ClassStep]]
    ) -> tuple[Tensor | None, ClassStep]:
        """Narrow the classes at the entry of a stage.

        Args:
            stage: Number of the stage, 1 to 4.
            x: Features of the stage before, ``(B, C, H, W)``.
            steps: Results of this method for the earlier contextual stages.

        Returns:
            The classes that were scored, ``(B, n)`` int64, or ``None`` if these were all, and their scores, ``(B,
            n)``, the classes that go on, ``(B, keep)`` int64, and the prior, ``(B, d)``.
        """
        classes = self._considered(steps)
        keep = class_counts(self.num_classes, self.ratios)[stage - 1]
        step: ClassStep = self.steps[str(stage)](x, self.embedding.weight, classes, keep)
        return classes, step

    def score(self, x: Tensor, steps: Sequence[tuple[Tensor | None, ClassStep]]) -> ContextualOutput:
        """Score the remaining classes with the last features, and put the scores of all steps together.

        Args:
            x: Pooled features of the last stage, ``(B, C)``.
            steps: Results of `narrow` for the contextual stages.

        Returns:
            The logits, ``(B, num_classes)``, with the scores and class sets of every step, each ``(B, N_i)``.

        Raises:
            ValueError: If the head was removed.
        """
        scores = self._head_scores(x)
        classes = self._considered(steps)
        everything = _all_classes(scores)
        scored = [(everything if c is None else c, step.scores) for c, step in steps]
        scored.append((everything, scores) if classes is None else (classes, scores.gather(1, classes)))
        sets, all_scores = tuple(c for c, _ in scored), tuple(s for _, s in scored)
        survivors = steps[-1][1].kept if steps else everything
        logits = _compose(all_scores, sets, survivors, self.temperature, self.num_classes)
        return ContextualOutput(logits, all_scores, sets, self.temperature)

    def training_logits(self, x: Tensor, steps: Sequence[tuple[Tensor | None, ClassStep]]) -> Tensor:
        """Return logits that a plain cross entropy trains every step by: the mean scores of all steps, over τ.

        No class is dropped and every step scores all of them, so that each learns from every sample, from those
        too whose class it, or a step before it, has dropped. The softmax is sure of a class only if all steps are,
        because a cosine is at most 1.

        Args:
            x: Pooled features of the last stage, ``(B, C)``.
            steps: Results of `narrow` for the contextual stages.

        Returns:
            The logits, ``(B, num_classes)``.

        Raises:
            ValueError: If the head was removed.
        """
        scores = [*(step.all_scores for _, step in steps), self._head_scores(x)]
        return torch.stack(scores).mean(0) / self.temperature

    def _head_scores(self, x: Tensor) -> Tensor:
        """Return the head's cosine scores of all classes, ``(B, N)``, and see to τ before it is used."""
        if self.head is None:
            raise ValueError("the head of this funnel was removed")
        self._hold_temperature()
        return self.head.scores(x, self.embedding.weight)

    def _hold_temperature(self) -> None:
        """Bring the parameter back within its bounds after a step of an optimiser that knows nothing of them.

        `temperature` is bounded anyway. A parameter far outside would take long to come back.
        """
        scale = self.logit_scale
        if is_traced(scale) or torch.compiler.is_exporting() or transforms_active():
            return
        if self.training and scale.requires_grad and torch.is_grad_enabled():
            with torch.no_grad():
                scale.clamp_(*_BOUNDS)

    def _considered(self, steps: Sequence[tuple[Tensor | None, ClassStep]]) -> Tensor | None:
        return steps[-1][1].kept if steps and self.selection == "reduce" else None


@leaf
def _temperature(logit_scale: Tensor) -> Tensor:
    scale = logit_scale.to(torch.promote_types(logit_scale.dtype, torch.float32))
    learned = _RATE * scale
    bounded = scale.detach().clamp(*_BOUNDS)
    return torch.exp(-((learned - learned.detach()) + bounded))


@leaf
def _all_classes(scores: Tensor) -> Tensor:
    """Return the numbers of all classes for each sample, ``(B, N)``, of the scores of all, ``(B, N)``."""
    return torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[0], -1)


def _compose(
    scores: Sequence[Tensor],
    classes: Sequence[Tensor],
    survivors: Tensor,
    temperature: Tensor,
    num_classes: int,
) -> Tensor:
    """Give each class its last score over τ, and those that were dropped a handicap that no score can make up for.

    Cosines lie in [-1, 1], so scores over τ differ by at most 2 / τ: with a handicap of 2 / τ + 1 the dropped
    classes rank below all others, in the order of their last score, and their softmax is practically zero.
    The handicap is a constant: τ does not learn from it.
    """
    last = scores[0].new_zeros(scores[0].shape[0], num_classes)
    for score, members in zip(scores, classes, strict=True):
        last = last.scatter(1, members, score)
    dropped = torch.ones_like(last).scatter(1, survivors, 0.0)
    logits = last / temperature - (2 / temperature.detach() + 1) * dropped
    return logits.reshape(-1, num_classes)  # says to those who record a graph what they cannot tell of a scatter
