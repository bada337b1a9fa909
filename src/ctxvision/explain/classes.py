"""Classes in a network: similarities of their embeddings, the class funnel of an image and of a data set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.classification.class_sets import FunnelStep, funnel_steps, is_contextual


def class_embeddings(model: nn.Module) -> np.ndarray:
    """Return the embedding of each class of a network, one row of length 1 per class, (C, d) float32.

    These are the class embeddings of a contextual network and the rows of the last linear layer of others.

    Source: Contextual CNN, section 4.4.

    Args:
        model: A classifier of C classes.

    Raises:
        ValueError: The network has neither class embeddings nor a last linear layer.

    Examples:
        >>> import timm, ctxvision
        >>> rows = class_embeddings(timm.create_model("contextual_convnext_micro", num_classes=10))
        >>> on_a_plane(rows).shape, similarities(rows).shape
        ((10, 2), (10, 10))
    """
    network: Any = model
    if is_contextual(model):
        weight = network.context.embedding.weight
    else:
        classifier = network.get_classifier() if hasattr(model, "get_classifier") else None
        weight = getattr(classifier, "weight", None)
        if not isinstance(weight, torch.Tensor) or len(weight) != getattr(model, "num_classes", len(weight)):
            raise ValueError(f"{type(model).__name__} has neither class embeddings nor a linear or 1x1 classifier")
    rows: np.ndarray = F.normalize(weight.detach().float().flatten(1), dim=1).cpu().numpy()
    return rows


def similarities(embeddings: np.ndarray) -> np.ndarray:
    """Return the cosines (C, C), from −1 to 1, of every pair of rows of embeddings (C, d)."""
    rows = _directions(embeddings)
    cosines: np.ndarray = np.clip(rows @ rows.T, -1, 1)
    return cosines


def _directions(embeddings: np.ndarray) -> np.ndarray:
    rows: np.ndarray = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return rows


def on_a_plane(embeddings: np.ndarray, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Lay out classes on a plane by t-SNE of their directions, the same for the same seed.

    Args:
        embeddings: The class embeddings, (C, d), of at least one class.
        perplexity: The approximate number of neighbours that count; it is lowered to a third of the other classes
            where there are few.
        seed: The seed of scikit-learn's generator.

    Returns:
        The places of the classes, (C, 2) float32. Fewer than four classes have no neighbourhoods: those lie along
        their principal axes.
    """
    count = len(embeddings)
    rows = _directions(embeddings)
    centred = rows - rows.mean(0)
    if count < 4 or not np.abs(centred).max() > 1e-6:
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        plane = np.zeros((count, 2), np.float32)
        plane[:, : min(2, len(s))] = (u * s)[:, :2]
        return plane
    from sklearn.manifold import TSNE

    neighbours = max(min(perplexity, (count - 1) / 3), 1.0)
    start = "pca" if rows.shape[1] > 1 else "random"
    layout = TSNE(2, perplexity=neighbours, init=start, random_state=seed).fit_transform(rows)
    return np.asarray(layout, np.float32)


@dataclass(frozen=True)
class StageView:
    """One step of the funnel for one image.

    Attributes:
        name: The name of the step, as in `FunnelStep`.
        classes: The numbers of the classes that were scored, the one with the highest score first.
        scores: The cosine similarities of these classes, from −1 to 1.
        kept: Whether each of these classes was kept; at the head, whether it is the answer.
        true_rank: The rank of the true class, from 1; ``None`` if it was dropped at an earlier step.
    """

    name: str
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    kept: tuple[bool, ...]
    true_rank: int | None


class Loss(NamedTuple):
    """The step of the funnel where a class was lost, and the classes that displaced it.

    Attributes:
        step: The name of the first step from which on the class is never kept; with ``selection="rerank"`` it may
            be dropped and come back before that step.
        to: The number of the class with the highest score at that step; at the head the answer.
        replaced_by: The number of the last class that was kept at that step, and so took the place of the lost
            class.
    """

    step: str
    to: int
    replaced_by: int


@dataclass(frozen=True)
class Funnel:
    """The class sets of one image at each step.

    Attributes:
        target: The number of the true class, or of another class that is followed.
        prediction: The number of the class that the network answers.
        stages: The steps, from the first to the last.
    """

    target: int
    prediction: int
    stages: tuple[StageView, ...]

    def loss(self) -> Loss | None:
        """Return where the true class was lost, and to which classes; ``None`` if it is the answer."""
        lost = None
        for stage in reversed(self.stages):
            kept = [c for c, keep in zip(stage.classes, stage.kept, strict=True) if keep]
            if self.target in kept:
                break
            best = self.prediction if stage is self.stages[-1] else stage.classes[0]
            lost = Loss(stage.name, best, kept[-1])
        return lost

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the followed class and the steps, with the ``names`` of the classes, as plain values for JSON."""
        return {
            "followed": names[self.target],
            "stages": [
                {
                    "name": stage.name,
                    "rank": stage.true_rank,
                    "classes": [
                        {"class": names[c], "score": score, "kept": kept}
                        for c, score, kept in zip(stage.classes, stage.scores, stage.kept, strict=True)
                    ],
                }
                for stage in self.stages
            ],
        }


def class_funnel(model: nn.Module, images: Tensor, targets: Tensor | Sequence[int]) -> list[Funnel]:
    """Follow the class sets of images through a contextual network.

    Args:
        model: A contextual network, on the device to use.
        images: The normalised images, (B, C, H, W), on the same device.
        targets: The true classes of the images, or other classes to follow, (B,).

    Returns:
        One funnel for each image, in their order.

    Raises:
        ValueError: The network is not contextual, or the number of targets differs from the number of images.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("contextual_convnext_micro", num_classes=20)
        >>> (funnel,) = class_funnel(model, torch.zeros(1, 3, 32, 32), [7])
        >>> [(stage.name, len(stage.classes), sum(stage.kept)) for stage in funnel.stages]
        [('stage 2', 20, 10), ('stage 3', 10, 5), ('stage 4', 5, 5), ('head', 5, 1)]
    """
    if not is_contextual(model):
        raise ValueError("class_funnel needs a contextual network, one with forward_stages and contextual stages")
    targets = torch.as_tensor(targets, device=images.device)
    if targets.shape != images.shape[:1]:
        raise ValueError(f"targets must be (B,) = ({len(images)},), got {tuple(targets.shape)}")
    with evaluation_mode(model):
        network: Any = model
        steps = funnel_steps(model, network.forward_stages(images))
    return [
        Funnel(int(target), int(steps[-1].kept[row, 0]), tuple(_view(step, row, int(target)) for step in steps))
        for row, target in enumerate(targets)
    ]


def _view(step: FunnelStep, row: int, target: int) -> StageView:
    scores, order = step.scores[row].float().sort(descending=True, stable=True)
    classes, kept = step.classes[row][order].tolist(), set(step.kept[row].tolist())
    return StageView(
        name=step.name,
        classes=tuple(classes),
        scores=tuple(scores.tolist()),
        kept=tuple(c in kept for c in classes),
        true_rank=classes.index(target) + 1 if target in classes else None,
    )


@dataclass(frozen=True)
class Fates:
    """The fate of the true class of N images at the S steps of a funnel of C classes.

    A class is lost at the first step from which on it is never kept; at the head only the answer is kept. With
    ``selection="rerank"`` a class may come back, and is then not lost yet.

    Attributes:
        steps: The names of the steps, ``"stage 2"``, …, ``"head"``.
        scored: The number of classes that are scored at each step, S numbers.
        kept: The number of classes that are kept at each step, S numbers.
        num_classes: The number C of classes of the network.
        targets: The true classes, (N,) int64.
        answers: The classes that the network answers, (N,) int64.
        ranks: The rank of the true class among the scored classes, from 1, (N, S) int64; 0 where it was not
            considered.
        scores: The cosine similarities of the true class, (N, S) float32 from −1 to 1; NaN where it was not
            considered.
        cutoffs: The lowest cosine similarity among the classes that were kept, (N, S) float32.
        lost: The index of the step where the true class was lost, (N,) int64; S if the answer is right.
        winners: The class with the highest score at the step where the true class was lost, at the head the
            answer, (N,) int64; the true class if the answer is right.
        replaced_by: The last class that was kept at the step where the true class was lost, and so took its place,
            (N,) int64; the true class if the answer is right.
    """

    steps: tuple[str, ...]
    scored: tuple[int, ...]
    kept: tuple[int, ...]
    num_classes: int
    targets: np.ndarray
    answers: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    cutoffs: np.ndarray
    lost: np.ndarray
    winners: np.ndarray
    replaced_by: np.ndarray

    def recall(self) -> np.ndarray:
        """Return the share of images whose true class was kept up to each step, (S,); the last is the accuracy."""
        shares: np.ndarray = (self.lost[:, None] > np.arange(len(self.steps))).mean(0)
        return shares

    def lost_by_class(self) -> np.ndarray:
        """Count images by true class and step where it was lost, (C, S + 1) int64; right answers come last."""
        columns = len(self.steps) + 1
        cells = np.bincount(self.targets * columns + self.lost, minlength=self.num_classes * columns)
        return cells.reshape(self.num_classes, columns)

    def lost_to(self) -> list[tuple[int, int, int, int]]:
        """List (true class, index of the step, winner, number of images), the most frequent first."""
        wrong = self.lost < len(self.steps)
        found = Counter(zip(*(a[wrong].tolist() for a in (self.targets, self.lost, self.winners)), strict=True))
        return [(*key, count) for key, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def class_fates(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Fates:
    """Follow the true class of every image through the funnel of a contextual network.

    Args:
        model: A contextual network, on the device to use.
        batches: Batches of normalised images (B, C, H, W) and their true classes (B,), on the same device.

    Returns:
        The fates of the true classes of all images.

    Raises:
        ValueError: The network is not contextual, or there are no images.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("contextual_convnext_micro", num_classes=20)
        >>> fates = class_fates(model, [(torch.zeros(2, 3, 32, 32), torch.tensor([3, 7]))])
        >>> fates.steps, fates.scored, fates.kept
        (('stage 2', 'stage 3', 'stage 4', 'head'), (20, 10, 5, 5), (10, 5, 5, 1))
    """
    if not is_contextual(model):
        raise ValueError("class_fates needs a contextual network, one with forward_stages and contextual stages")
    parts: list[tuple[np.ndarray, ...]] = []
    steps: list[FunnelStep] = []
    network: Any = model
    num_classes = int(network.context.num_classes)
    with evaluation_mode(model):
        for images, targets in batches:
            if len(images):
                steps = funnel_steps(model, network.forward_stages(images))
                parts.append(_follow(steps, targets, num_classes))
    if not parts:
        raise ValueError("there are no images to follow")
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    names = tuple(step.name for step in steps)
    sizes = (tuple(int(s.classes.shape[1]) for s in steps), tuple(int(s.kept.shape[1]) for s in steps))
    return Fates(names, *sizes, num_classes, *columns)


def _follow(steps: list[FunnelStep], targets: Tensor, num_classes: int) -> tuple[np.ndarray, ...]:
    """Return the arrays of `Fates` for a batch, in their order."""
    rows = torch.arange(len(targets), device=targets.device)
    member = torch.zeros(len(targets), num_classes, dtype=torch.bool, device=targets.device)
    ranks, scores, cutoffs, keeps, winners, last_kept = [], [], [], [], [], []
    for step in steps:
        ordered, order = step.scores.float().sort(dim=1, descending=True, stable=True)
        classes = step.classes.gather(1, order)
        hit = classes == targets[:, None]
        considered, place = hit.any(1), hit.int().argmax(1)
        ranks.append(torch.where(considered, place + 1, 0))
        scores.append(torch.where(considered, ordered[rows, place], torch.nan))
        kept = member.scatter(1, step.kept, True).gather(1, classes)
        last = kept.shape[1] - 1 - kept.flip(1).int().argmax(1)
        cutoffs.append(ordered[rows, last])
        last_kept.append(classes[rows, last])
        keeps.append(step.keeps(targets))
        winners.append(classes[:, 0])
    kept_from = torch.stack(keeps, 1).flip(1).int().cumsum(1).flip(1) > 0  # kept at this step or a later one
    lost = kept_from.sum(1)
    answers = winners[-1] = steps[-1].kept[:, 0]  # which need not have the highest score when stages choose again
    at = lost.clamp(max=len(steps) - 1)
    arrays = (
        targets,
        answers,
        *(torch.stack(part, 1) for part in (ranks, scores, cutoffs)),
        lost,
        torch.stack(winners, 1)[rows, at],
        torch.stack(last_kept, 1)[rows, at],
    )
    return tuple(array.cpu().numpy() for array in arrays)
