"""The class funnel: which classes a contextual network still considers at each of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.classification.class_sets import FunnelStep, funnel_steps, is_contextual


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
