"""The class funnel over a data set: the step at which the true class was lost, and to which classes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.classification.class_sets import FunnelStep, funnel_steps, is_contextual


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
