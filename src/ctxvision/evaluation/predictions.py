"""What a network says about every image of a data set, and how often it is right."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import NormalDist

import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.classification.class_sets import FunnelStep, funnel_steps, is_contextual


@dataclass(frozen=True)
class StageRecall:
    """What became of the true classes at one step of the class funnel.

    Attributes:
        name: ``"stage 2"``, …, ``"head"``.
        scored: classes scored per image.
        kept: classes that went on.
        considered: images whose true class was among those scored.
        first: images whose true class scored highest of them.
        survived: images whose true class went on; at the head, images that are right.
    """

    name: str
    scored: int
    kept: int
    considered: int = 0
    first: int = 0
    survived: int = 0


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images, in their order.

    Attributes:
        num_classes: outputs of the network.
        targets: true classes, (N,) int64.
        classes: most probable classes, best first, (N, k) int64.
        probabilities: theirs, (N, k).
        true_probabilities: of the true classes, (N,).
        stages: the class funnel over all images; empty if the network has none.
        pictures: inputs of the network, (C, H, W), by position: those asked for, and the worst mistakes.
    """

    num_classes: int
    targets: Tensor
    classes: Tensor
    probabilities: Tensor
    true_probabilities: Tensor
    stages: tuple[StageRecall, ...] = ()
    pictures: dict[int, Tensor] = field(default_factory=dict)

    @property
    def correct(self) -> Tensor:
        """Whether the most probable class is the true one, (N,) bool."""
        return self.classes[:, 0] == self.targets

    def worst(self, count: int | None = None) -> list[int]:
        """Return the positions of the mistakes, the most confident first."""
        confidence = torch.where(self.correct, -1.0, self.probabilities[:, 0])
        order = confidence.argsort(descending=True, stable=True)
        return order[: int((~self.correct).sum())][:count].tolist()

    def confusion(self) -> Tensor:
        """Return how often each true class (row) was taken for each class (column), (classes, classes)."""
        cells = self.targets * self.num_classes + self.classes[:, 0]
        counts = torch.bincount(cells, minlength=self.num_classes**2)
        return counts.view(self.num_classes, self.num_classes)


def collect_predictions(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    top_k: int = 5,
    keep: Collection[int] = (),
    mistakes: int = 0,
) -> Predictions:
    """Run a network over a data set once.

    Args:
        model: images (B, C, H, W) to logits (B, classes).
        batches: images and their classes (B,), on the model's device; images may be none.
        top_k: classes to remember of each image.
        keep: positions of the images to remember.
        mistakes: how many of the most confident mistakes to remember the images of.

    Raises:
        ValueError: there are no images.
    """
    contextual = is_contextual(model)
    parts: list[tuple[Tensor, ...]] = []
    stages: list[StageRecall] = []
    kept: dict[int, Tensor] = {}
    worst: list[tuple[float, int, Tensor]] = []
    start = num_classes = 0
    with evaluation_mode(model):
        for images, targets in batches:
            if not len(images):
                continue
            if contextual:
                output = model.forward_stages(images)
                logits, steps = output.logits, funnel_steps(model, output)
                known = stages or [None] * len(steps)
                stages = [count_step(step, old, targets) for step, old in zip(steps, known, strict=True)]
            else:
                logits = model(images)
            chances = logits.float().softmax(1)
            num_classes = chances.shape[1]
            best = chances.topk(min(top_k, num_classes), 1)
            parts.append((targets, best.indices, best.values, chances.gather(1, targets[:, None])[:, 0]))
            kept |= {start + i: images[i].cpu() for i in range(len(images)) if start + i in keep}
            wrong = (best.indices[:, 0] != targets).nonzero()[:, 0].tolist()
            worst += [(-float(best.values[i, 0]), start + i, images[i].cpu()) for i in wrong]
            worst = sorted(worst, key=lambda entry: entry[:2])[:mistakes]
            start += len(images)
    if not parts:
        raise ValueError("there are no images to predict")
    targets, classes, probabilities, of_truth = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    pictures = kept | {position: image for _, position, image in worst}
    return Predictions(num_classes, targets, classes, probabilities, of_truth, tuple(stages), pictures)


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a share of ``right`` in ``total``.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Examples:
        >>> [round(limit, 4) for limit in wilson_interval(354, 359)]
        [0.9678, 0.994]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def count_step(step: FunnelStep, old: StageRecall | None, targets: Tensor) -> StageRecall:
    """Add a batch to what is known of one step; ``old`` is ``None`` before the first."""
    old = old or StageRecall(step.name, step.classes.shape[1], step.kept.shape[1])
    first = step.classes.gather(1, step.scores.argmax(1, keepdim=True))[:, 0] == targets
    return StageRecall(
        old.name,
        old.scored,
        old.kept,
        old.considered + int(step.considers(targets).sum()),
        old.first + int(first.sum()),
        old.survived + int(step.keeps(targets).sum()),
    )
