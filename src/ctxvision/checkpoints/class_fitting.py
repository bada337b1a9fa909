"""Class embeddings and projections of a contextual network, fitted to images in closed form.

A plain network has learned one classifier, behind its last stage. A contextual one that starts from its weights
needs one more for each contextual stage, and a table of class embeddings that all of them share. Both follow from
one pass over the training images.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.models import ContextualNet
from ctxvision.nn import ClassContext

_SHIFT = 4.0
"""Bias that keeps the ReLU inside a projection linear: values before it have variance 1."""

_CERTAINTY = 10.0
"""Difference of the logits of a class that a regression is sure of from those that it rules out."""


class PlainClassifier(NamedTuple):
    """The classifier of a plain network, ``norm(x) @ weight.T + bias`` of its pooled features."""

    weight: Tensor
    """``(N, C)``."""
    bias: Tensor
    """``(N,)``."""
    norm: tuple[Tensor, Tensor] | None = None
    """Weight and bias of the layer norm before it, ``(C,)`` each; ``None`` if there is none."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, ``(B, N)``, of pooled features, ``(B, C)``."""
        x = x if self.norm is None else F.layer_norm(x, x.shape[1:], *(p.to(x) for p in self.norm), eps=1e-6)
        return x @ self.weight.to(x).T + self.bias.to(x)


class _Moments:
    """Sums over images that a ridge regression from features to targets needs."""

    def __init__(self, features: int, targets: int, device: torch.device) -> None:
        self.count = 0
        wide = {"dtype": torch.float64, "device": device}
        self.x, self.y = torch.zeros(features, **wide), torch.zeros(targets, **wide)  # type: ignore[call-overload]
        self.xx = torch.zeros(features, features, **wide)  # type: ignore[call-overload]
        self.xy = torch.zeros(features, targets, **wide)  # type: ignore[call-overload]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count features, ``(B, C)``, and targets, ``(B, N)``."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    @property
    def mean(self) -> Tensor:
        return self.x / self.count

    @property
    def covariance(self) -> Tensor:
        return self.xx / self.count - self.mean.outer(self.mean)

    def regression(self) -> tuple[Tensor, Tensor]:
        """Return weight, ``(N, C)``, and bias, ``(N,)``, of the ridge regression from features to targets.

        Features are scaled to variance 1; the penalty is the number of features per image.
        """
        scale = self.covariance.diagonal().clamp(min=1e-12).rsqrt()
        correlation = self.covariance * scale.outer(scale)
        cross = (self.xy / self.count - self.mean.outer(self.y / self.count)) * scale[:, None]
        penalty = 1e-3 + len(scale) / self.count
        correlation.diagonal().add_(penalty)
        weight = (torch.linalg.solve(correlation, cross) * scale[:, None]).T
        return weight, self.y / self.count - weight @ self.mean


@torch.no_grad()
def fit_classes(
    model: ContextualNet,
    batches: Iterable[tuple[Tensor, Tensor]],
    classifier: PlainClassifier | None = None,
    *,
    limit: int = 20_000,
) -> int:
    """Fit class embeddings and projections to labelled images, so that a warm start begins with all that is known.

    Embeddings become directions at right angles, or, of more classes than fit, the main directions of the plain
    classifier. Each projection becomes a linear classifier: at the head the plain one, so that its scores rank the
    classes as the plain network's logits do; at the stages, and at the head if there is no plain one, the ridge
    regression from the stage's pooled features to the classes. Everything else stays as it is.

    Args:
        model: Network with the weights of a plain one; it is in evaluation mode meanwhile.
        batches: Images, ``(B, C, H, W)``, and their classes, ``(B,)``.
        classifier: Classifier of the plain network; one that is no better than chance is of other classes, and is
            left out.
        limit: Number of images after which the pass ends.

    Returns:
        The number of images of the pass.

    Raises:
        ValueError: If the network has no classes to fit, or there are no images.
    """
    context = model.context
    if context is None or context.head is None:
        raise ValueError("fit_classes needs a contextual network with a classifier")
    layers = {**dict(context.steps.items()), "head": context.head}
    training = {module: module.training for module in model.modules()}
    device, dtype = context.embedding.weight.device, context.embedding.weight.dtype
    entered: dict[str, Tensor] = {}
    hooks = [
        step.register_forward_pre_hook(
            lambda _, args, name=name: entered.__setitem__(name, args[0].mean((2, 3)))  # type: ignore[misc]
        )
        for name, step in context.steps.items()
    ]
    moments = {
        name: _Moments(layer.projection[0].in_features, context.num_classes, device)  # type: ignore[arg-type]
        for name, layer in layers.items()
    }
    spread, right = 0.0, 0
    try:
        model.eval()
        for pictures, labels in batches:
            if not len(pictures):
                continue
            pooled = model.forward_head(model.forward_features(pictures.to(device, dtype)), pre_logits=True)
            wanted = F.one_hot(labels.to(device), context.num_classes)
            for name, x in {**entered, "head": pooled}.items():
                moments[name].add(x, wanted)
            spread += float((pooled.var(1, unbiased=False) + 1e-6).sqrt().sum())
            right += 0 if classifier is None else int((classifier(pooled).argmax(1) == labels.to(device)).sum())
            if moments["head"].count >= limit:
                break
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    if not moments["head"].count:
        raise ValueError("fit_classes got no images")
    count = moments["head"].count
    maps = {name: tuple(_CERTAINTY * part for part in sums.regression()) for name, sums in moments.items()}
    if classifier is not None and right > 1.5 * count / context.num_classes:
        maps["head"] = _linear(classifier, spread / count)
    table = _embeddings(context.num_classes, context.embedding.embedding_dim, maps["head"][0])
    context.embedding.weight.copy_(table)
    for name, layer in layers.items():
        _realise(layer, *maps[name], table, moments[name], float(context.temperature))
    return count


def _linear(classifier: PlainClassifier, spread: float) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a plain classifier of features without its norm, whose mean spread is given.

    A layer norm divides by the spread of each image's features: that scales all logits but for the bias.
    """
    weight, bias = classifier.weight.double(), classifier.bias.double()
    if classifier.norm is None:
        return weight, bias
    scale, shift = (part.double() for part in classifier.norm)
    bias, weight = bias + weight @ shift, weight * scale
    return (weight - weight.mean(1, keepdim=True)) / spread, bias


def _embeddings(classes: int, dim: int, weight: Tensor) -> Tensor:
    """Return unit embeddings, ``(N, d)``, that leave one direction free, the last of a random basis."""
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, device="cpu"))
    basis = basis.to(weight.device)
    if classes < dim:
        return basis[:classes]
    u, s, _ = torch.linalg.svd(weight - weight.mean(0), full_matrices=False)
    count = min(dim - 1, len(s))
    return F.normalize(u[:, :count] * s[:count].sqrt(), dim=1) @ basis[:count]


def _realise(
    layer: ClassContext, weight: Tensor, bias: Tensor, table: Tensor, sums: _Moments, temperature: float
) -> None:
    """Give a projection the parameters by which its scores over τ are the logits ``weight @ x + bias``, centred.

    The vector that it makes has the logits as its products with the embeddings, and a constant part, of length 1 /
    τ, at right angles to all of them. As long as logits are shorter than that, the cosines over τ are the logits.

    Between its linear layers stands a norm. The first layer makes orthonormal combinations of the wanted vector,
    whose mean is zero; a bias behind the norm keeps the ReLU linear; the second layer undoes the combinations. By
    what a layer norm divides, it scales the vector as a whole, which no cosine sees.
    """
    first, norm, _, last = layer.projection
    weight, bias = weight - weight.mean(0), bias - bias.mean()
    back = torch.linalg.pinv(table)  # (d, N)
    weight, bias = back @ weight, back @ bias
    free = torch.linalg.svd(table)[2][-1]  # of more rows than columns too, the embeddings leave one direction
    if float((table @ free).abs().max()) < 1e-6:
        bias = bias + free / temperature
    hidden = int(first.out_features)  # type: ignore[arg-type]
    # the directions in which the wanted vectors lie, the most important first
    mean = weight @ sums.mean + bias
    second = weight @ sums.covariance @ weight.T + mean.outer(mean)
    basis = torch.linalg.eigh(second)[1].flip(1)[:, : min(hidden - 1, len(second))]
    ones = torch.ones(hidden, 1, dtype=basis.dtype, device="cpu")
    random = torch.randn(hidden, basis.shape[1], dtype=basis.dtype, device="cpu")
    mix = torch.linalg.qr(torch.cat([ones, random], 1))[0][:, 1:].to(basis.device)  # (hidden, r), columns sum to 0
    wide, shift = mix @ basis.T @ weight, mix @ basis.T @ bias
    scale = float(second.trace().rsqrt()) * hidden**0.5  # hidden values of mean square 1
    first.weight.copy_(wide * scale)  # type: ignore[operator]
    first.bias.copy_(shift * scale)  # type: ignore[operator]
    norm.weight.fill_(1.0)  # type: ignore[operator]
    norm.bias.fill_(_SHIFT)  # type: ignore[operator]
    undo = basis @ mix.T  # (d, hidden)
    offset = torch.zeros_like(bias)
    if isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None:
        centre = scale * (wide @ sums.mean + shift)
        variance = scale**2 * ((wide @ sums.covariance) * wide).sum(1)
        norm.running_mean.copy_(centre)
        norm.running_var.copy_(variance)
        spread = (variance + norm.eps).sqrt()
        offset, undo = undo @ centre, undo * spread
    last.weight.copy_(undo)  # type: ignore[operator]
    last.bias.copy_(offset - _SHIFT * undo.sum(1))  # type: ignore[operator]
