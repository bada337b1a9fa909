"""Class embeddings and projections of a contextual network, fitted to images in closed form.

A plain network has learned one classifier, behind its last stage. A contextual one that starts from its weights
needs one more for each contextual stage, and a table of class embeddings that all of them share. Both follow from
one pass over the training images.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.models import ContextualNet
from ctxvision.nn import ClassContext, class_counts

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
        if self.norm is not None:
            x = F.layer_norm(x, x.shape[1:], self.norm[0].to(x), self.norm[1].to(x), 1e-6)
        return x @ self.weight.to(x).T + self.bias.to(x)


class _Map(NamedTuple):
    """A linear map of features, ``(C,)``, to logits, ``(N,)``."""

    weight: Tensor
    bias: Tensor


class ClassFit(NamedTuple):
    """What `fit_classes` did."""

    images: int
    """Number of images that it looked at."""
    class_ratios: tuple[float, ...]
    """Shares of the classes that the four stages consider now."""
    widened: bool
    """Whether these are larger than before."""


class _Moments:
    """Sums over images that a ridge regression from features to targets needs."""

    def __init__(self, features: int, targets: int, device: torch.device) -> None:
        self.count = 0
        self.x, self.y, self.xx, self.xy = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((features,), (targets,), (features, features), (features, targets))
        )

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count features, ``(B, C)``, and targets, ``(B, N)``."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Return the mean of the features, ``(C,)``, and their covariance, ``(C, C)``."""
        mean = self.x / self.count
        return mean, self.xx / self.count - mean.outer(mean)

    def regression(self) -> "_Map":
        """Return the ridge regression from features to targets.

        Features are scaled to variance 1; the penalty is the number of features per image.
        """
        mean, target = self.x / self.count, self.y / self.count
        weight = (self._inverse() @ (self.xy / self.count - mean.outer(target))).T
        return _Map(_CERTAINTY * weight, _CERTAINTY * (target - weight @ mean))

    def _inverse(self) -> Tensor:
        """Return the inverse of the penalised covariance, ``(C, C)``."""
        _, covariance = self.mean_and_covariance()
        scale = covariance.diagonal().clamp(min=1e-12).rsqrt()
        correlation = covariance * scale.outer(scale)
        correlation.diagonal().add_(1e-3 + len(scale) / self.count)
        inverse: Tensor = torch.linalg.inv(correlation) * scale.outer(scale)
        return inverse

    def ranks_left_out(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the rank of each image's class, from 1, by the regression to all other images, ``(B,)``."""
        weight, bias = self.regression()
        centred = x.double() - self.x / self.count
        leverage = ((centred @ self._inverse()) * centred).sum(1) / self.count + 1 / self.count
        fitted = (x.double() @ weight.T + bias) / _CERTAINTY
        wanted = F.one_hot(labels, weight.shape[0])
        scores = (fitted - leverage[:, None] * wanted) / (1 - leverage[:, None]).clamp(min=1e-6)
        return (scores > scores.gather(1, labels[:, None])).sum(1) + 1


@torch.no_grad()
def fit_classes(
    model: ContextualNet,
    batches: Iterable[tuple[Tensor, Tensor]],
    classifier: PlainClassifier | None = None,
    *,
    recall: float = 0.99,
    limit: int = 10_000,
) -> ClassFit:
    """Fit class embeddings and projections to labelled images, so that a warm start begins with all that is known.

    Embeddings become directions at right angles, or, of more classes than fit, the main directions of the plain
    classifier. Each projection becomes a linear classifier: at the head the plain one, so that its scores rank the
    classes as the plain network's logits do; at the stages, and at the head if there is no plain one, the ridge
    regression from the stage's pooled features to the classes. An early stage that cannot tell the classes apart
    would drop true ones: it considers more of them then. Everything else stays as it is.

    Args:
        model: Network with the weights of a plain one; it is in evaluation mode meanwhile.
        batches: Images, ``(B, C, H, W)``, and their classes, ``(B,)``.
        classifier: Classifier of the plain network; one that is no better than chance is of other classes, and is
            left out.
        recall: Share of the images whose class each stage keeps at least, by regressions that leave the image out;
            class ratios grow until then. The value 0 leaves them as they are.
        limit: Number of images after which the pass ends; their pooled features are held in memory.

    Returns:
        The number of images and the class ratios; a network that is built anew for these weights needs them.

    Raises:
        ValueError: If the network has no classes to fit, or there are no images.
    """
    context = model.context
    if context is None or context.head is None:
        raise ValueError("fit_classes needs a contextual network with a classifier")
    layers = {name: cast(ClassContext, step) for name, step in context.steps.items()} | {"head": context.head}
    training = {module: module.training for module in model.modules()}
    device, dtype = context.embedding.weight.device, context.embedding.weight.dtype
    entered: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, args: entered.update({name: args[0].mean((2, 3))})

    hooks = [step.register_forward_pre_hook(look(name)) for name, step in context.steps.items()]
    moments = {
        name: _Moments(cast(nn.Linear, layer.projection[0]).in_features, context.num_classes, device)
        for name, layer in layers.items()
    }
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    targets: list[Tensor] = []
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
                seen[name].append(x)
            targets.append(labels.to(device))
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
    maps = {name: sums.regression() for name, sums in moments.items()}
    chance = 1 / context.num_classes
    if classifier is not None and right > count * chance + 2 * (count * chance * (1 - chance)) ** 0.5:
        maps["head"] = _Map(*(part.to(device) for part in _linear(classifier, spread / count)))
    table = _embeddings(context.num_classes, context.embedding.embedding_dim, maps["head"], moments["head"])
    context.embedding.weight.copy_(table)
    for name, layer in layers.items():
        _realise(layer, maps[name], table, moments[name], float(context.temperature))
    kept, truth = list(class_counts(context.num_classes, context.ratios)), torch.cat(targets)
    before = tuple(kept)
    for name in context.steps:
        ranks = moments[name].ranks_left_out(torch.cat(seen[name]), truth)
        needed = int(ranks.double().quantile(recall, interpolation="higher")) if recall else 1
        for stage in range(int(name)):  # no set is smaller than those after it
            kept[stage] = max(kept[stage], needed)
    if tuple(kept) != before:
        context.ratios = tuple(number / context.num_classes for number in kept)
    return ClassFit(count, context.ratios, tuple(kept) != before)


def _linear(classifier: PlainClassifier, spread: float) -> _Map:
    """Return a plain classifier as a map of features without its norm, whose mean spread is given.

    A layer norm divides by the spread of each image's features: that scales all logits but for the bias.
    """
    weight, bias = classifier.weight.double(), classifier.bias.double()
    if classifier.norm is None:
        return _Map(weight, bias)
    scale, shift = (part.double() for part in classifier.norm)
    bias, weight = bias + weight @ shift, weight * scale
    return _Map((weight - weight.mean(1, keepdim=True)) / spread, bias)


def _embeddings(classes: int, dim: int, logits: _Map, sums: _Moments) -> Tensor:
    """Return unit embeddings, ``(N, d)``, whose products with one vector can be the logits of an image.

    Directions at right angles can have any products. More classes than that get the coordinates of their logits
    along the main directions in which logits of images differ, and in one dimension more what gives them length 1.
    """
    random = torch.randn(dim, dim, dtype=torch.float64, device="cpu")
    basis: Tensor = torch.linalg.qr(random)[0].to(logits.weight.device)
    if classes < dim:
        return basis[:classes]
    weight = logits.weight - logits.weight.mean(0)
    covariance = weight @ sums.mean_and_covariance()[1] @ weight.T
    values, vectors = torch.linalg.eigh(covariance)
    main = vectors[:, 1 - dim :] * values[1 - dim :].clamp(min=0) ** 0.25
    main = main / main.norm(dim=1).max()
    lift = (1 - main.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([main, lift], 1) @ basis[: main.shape[1] + 1]


def _realise(layer: ClassContext, logits: _Map, table: Tensor, sums: _Moments, temperature: float) -> None:
    """Give a projection the parameters by which its scores over τ are those logits, centred.

    The vector that it makes has the logits as its products with the embeddings, and a constant part, of length 1 /
    τ, at right angles to all of them. As long as logits are shorter than that, the cosines over τ are the logits.

    Between its linear layers stands a norm. The first layer makes orthonormal combinations of the wanted vector,
    whose mean is zero; a bias behind the norm keeps the ReLU linear; the second layer undoes the combinations. By
    what a layer norm divides, it scales the vector as a whole, which no cosine sees.
    """
    first, norm, last = (cast(nn.Linear, layer.projection[place]) for place in (0, 1, 3))
    mean, covariance = sums.mean_and_covariance()
    # (d, N); where embeddings have a dimension more for their length, the vectors do without
    back = (
        torch.linalg.pinv(table - table.mean(0)) if table.shape[0] >= table.shape[1] else torch.linalg.pinv(table)
    )
    weight = back @ (logits.weight - logits.weight.mean(0))
    bias = back @ (logits.bias - logits.bias.mean())
    free = torch.linalg.svd(table)[2][-1]
    if float((table @ free).abs().max()) < 1e-6:  # else there are more classes than dimensions, and none is free
        bias = bias + free / temperature
    hidden = first.out_features
    # the directions in which the wanted vectors lie, the most important first
    centre = weight @ mean + bias
    second = weight @ covariance @ weight.T + centre.outer(centre)
    basis = torch.linalg.eigh(second)[1].flip(1)[:, : min(hidden - 1, len(second))]
    columns = torch.randn(hidden, basis.shape[1], dtype=basis.dtype, device="cpu")
    columns = torch.cat([torch.ones_like(columns[:, :1]), columns], 1)
    mix = torch.linalg.qr(columns)[0][:, 1:].to(basis.device)  # (hidden, r), columns sum to 0
    scale = float(second.trace().rsqrt()) * hidden**0.5  # hidden values of mean square 1
    wide, shift = scale * mix @ basis.T @ weight, scale * mix @ basis.T @ bias
    undo = basis @ mix.T  # (d, hidden)
    offset = torch.zeros_like(bias)
    if isinstance(norm, nn.BatchNorm1d):
        middle, variance = wide @ mean + shift, ((wide @ covariance) * wide).sum(1)
        cast(Tensor, norm.running_mean).copy_(middle)
        cast(Tensor, norm.running_var).copy_(variance)
        offset, undo = undo @ middle, undo * (variance + norm.eps).sqrt()
    first.weight.copy_(wide)
    first.bias.copy_(shift)
    norm.weight.fill_(1.0)
    norm.bias.fill_(_SHIFT)
    last.weight.copy_(undo)
    last.bias.copy_(offset - _SHIFT * undo.sum(1))
