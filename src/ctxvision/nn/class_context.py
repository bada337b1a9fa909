"""The contextualizing layer: which classes are still likely, and what they have in common."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.ops._exporting import sizes_as_numbers
from ctxvision.ops._geometry import AUTOCAST_DEVICES

from . import _pointwise
from ._checks import NormKind, is_plain, refuse_scripting, require_norm, require_positive, vector_norm
from ._tracing import is_traced, leaf


def class_counts(num_classes: int, ratios: Sequence[float] = (1.0, 0.5, 0.2, 0.05)) -> tuple[int, ...]:
    """Return how many classes each stage considers, ``N_1 ... N_4``.

    The paper's (1000, 500, 200, 50) are ratios of 1000; other class counts keep the ratios, never fall below
    ``min(5, num_classes)`` and never grow from stage to stage.

    Args:
        num_classes: Number of all classes.
        ratios: Shares of the classes that the four stages consider, in (0, 1] and never growing.

    Raises:
        ValueError: If ``num_classes`` or ``ratios`` are not as said.

    Examples:
        >>> class_counts(1000)
        (1000, 500, 200, 50)
        >>> class_counts(10)
        (10, 5, 5, 5)
    """
    require_positive("class_counts", num_classes=num_classes)
    shares = [1.0, *ratios]
    if len(ratios) != 4 or any(not 0 < b <= a for a, b in itertools.pairwise(shares)):
        raise ValueError(f"class ratios must be four shares in (0, 1] that never grow, got {tuple(ratios)}")
    floor, counts = min(5, num_classes), [num_classes]
    for ratio in ratios:
        counts.append(min(max(round(num_classes * ratio), floor), counts[-1]))
    return tuple(counts[1:])


class ClassStep(NamedTuple):
    """What one contextualizing layer finds out about a batch."""

    scores: Tensor
    """Cosine similarity to each considered class, ``(B, n)``, in the order of the classes given."""
    kept: Tensor
    """The classes that go on, best first, ``(B, keep)`` int64."""
    prior: Tensor | None
    """The contextual prior, ``(B, d)``; ``None`` if the layer does not merge."""
    all_scores: Tensor
    """Cosine similarity to all classes, ``(B, N)``, considered or not."""


class ClassContext(nn.Module):
    """Classifying and merging (Contextual CNN, section 3.2).

    *Classifying* projects the pooled features, ``Linear -> LN -> ReLU -> Linear``, and compares them with the
    embeddings of the classes still considered; the best ``keep`` go on, separately for each sample. *Merging*
    maps the embeddings, ``Linear -> LN -> ReLU``, averages those that went on, and maps the mean,
    ``Linear -> LN -> ReLU``, to the contextual prior. The first map depends on the class alone, so it runs once
    over the embedding table instead of once per sample and class.

    Args:
        channels: Number of channels of the features.
        dim: Width ``d`` of the class embeddings and of the prior.
        hidden: Width inside the projection.
        merge_hidden: Width inside the merging; ``None`` for a layer that only classifies, as the head does.
        prior_dim: Width of the prior; ``None`` for that of the embeddings.
        norm: Norm of the projection, ``"layer"`` as in the paper, or ``"batch"`` as in the authors' ResNets.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.

    Raises:
        ValueError: By `forward`, if ``keep`` exceeds the classes considered.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import ClassContext
        >>> layer, embeddings = ClassContext(64, dim=32, hidden=48, merge_hidden=16), torch.randn(100, 32)
        >>> step = layer(torch.randn(2, 64, 7, 7), embeddings, None, 50)
        >>> step.scores.shape, step.kept.shape, step.prior.shape
        (torch.Size([2, 100]), torch.Size([2, 50]), torch.Size([2, 32]))
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        hidden: int,
        merge_hidden: int | None = None,
        prior_dim: int | None = None,
        norm: NormKind = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        require_positive("ClassContext", channels=channels, dim=dim, hidden=hidden)
        prior_dim = dim if prior_dim is None else prior_dim
        if merge_hidden is not None:
            require_positive("ClassContext", merge_hidden=merge_hidden, prior_dim=prior_dim)
        require_norm("ClassContext", norm)
        self.projection = nn.Sequential(
            nn.Linear(channels, hidden, **placed),
            vector_norm(norm, hidden, **placed),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, dim, **placed),
        )
        self.embed: nn.Sequential | None = None
        self.merge: nn.Sequential | None = None
        if merge_hidden is not None:
            self.embed = nn.Sequential(
                nn.Linear(dim, merge_hidden, **placed),
                nn.LayerNorm(merge_hidden, **placed),
                nn.ReLU(inplace=True),
            )
            self.merge = nn.Sequential(
                nn.Linear(merge_hidden, prior_dim, **placed),
                nn.LayerNorm(prior_dim, **placed),
                nn.ReLU(inplace=True),
            )

    def scores(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """Return the cosine similarity of features ``(B, C, H, W)`` or ``(B, C)`` to all classes, ``(B, N)``.

        At least in float32, also under autocast: half precision cannot tell a thousand cosines apart.
        """
        return _cosines(self.projection(_pooled(x)), embeddings)

    def prior(self, kept: Tensor, embeddings: Tensor) -> Tensor | None:
        """Return the prior, ``(B, d)``, merged from the embeddings of the kept classes; ``None`` for the head.

        Args:
            kept: Classes that go on, ``(B, keep)`` int64.
            embeddings: The class-embedding table, ``(N, d)``.
        """
        return self._merged(kept, int(kept.shape[1]), embeddings, kept)

    def _merged(self, kept: Tensor, keep: int, embeddings: Tensor, scores: Tensor) -> Tensor | None:
        """Merge classes: of a large batch all are embedded, of an image in inference the kept ones."""
        if self.embed is None or self.merge is None:
            return None
        if _pointwise.may_choose(scores) and kept.numel() < len(embeddings) and _is_plain(self.embed):
            few: Tensor = self.merge(self.embed(embeddings[kept]).mean(1))
            return few
        table = self.embed(embeddings)  # (N, merge_hidden)
        share = table.new_zeros(kept.shape[0], table.shape[0]).scatter(1, kept, 1.0 / keep)
        prior: Tensor = self.merge(share @ table)
        return prior

    def forward(self, x: Tensor, embeddings: Tensor, classes: Tensor | None, keep: int) -> ClassStep:
        """Score the considered classes, keep the best, merge them.

        Args:
            x: Features, ``(B, C, H, W)``, or pooled, ``(B, C)``.
            embeddings: The class-embedding table, ``(N, d)``.
            classes: The classes considered for each sample, ``(B, n)`` int64; ``None`` means all ``N``.
            keep: Number of classes that go on.
        """
        all_scores = self.scores(x, embeddings)
        scores = all_scores if classes is None else all_scores.gather(1, classes)
        if not is_traced(scores):
            with sizes_as_numbers():
                considered = int(scores.shape[1])
            if not 1 <= keep <= considered:
                raise ValueError(f"ClassContext: cannot keep {keep} of {considered} considered classes")
        best = scores.topk(keep, dim=1).indices
        kept = best if classes is None else classes.gather(1, best)
        return ClassStep(scores, kept, self._merged(kept, keep, embeddings, scores), all_scores)


def _is_plain(sequence: nn.Sequential) -> bool:
    """Whether nobody wants to see what a sequence of layers makes of all classes."""
    return all(is_plain(layer, type(layer)) for layer in (sequence, *sequence))


@leaf
def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3)) if x.dim() == 4 else x


@leaf
def _cosines(features: Tensor, embeddings: Tensor) -> Tensor:
    """Return the cosine similarity of projected features, ``(B, d)``, to all classes, ``(B, N)``."""
    with _without_autocast(features.device.type):
        precise = torch.promote_types(embeddings.dtype, torch.float32)
        features, embeddings = features.to(precise), embeddings.to(precise)
        return F.normalize(features, dim=1) @ F.normalize(embeddings, dim=1).T


def _without_autocast(device: str) -> contextlib.AbstractContextManager[None]:
    return torch.autocast(device, enabled=False) if device in AUTOCAST_DEVICES else contextlib.nullcontext()
