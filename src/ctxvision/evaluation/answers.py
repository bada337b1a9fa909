"""The answers of a classifier to all images of a data set, and the numbers that follow from them alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .by_class import class_table, confused_pairs, confusion_matrix, mean_class_accuracy, wilson_interval
from .calibration import calibration

_PAIRS = 100  # kinds of mistake in the list; the matrix has them all
_TOP = 5


@dataclass(frozen=True)
class Answers:
    """The answers to N images, in their order.

    Attributes:
        num_classes: The number of outputs of the network.
        targets: The true classes, (N,) int64.
        predictions: The most probable classes, (N,) int64; the first of several equally probable ones.
        ranks: The rank of the true class, from 0, (N,) int64; equally probable classes are in the order of their
            numbers.
        confidences: The probabilities of the predicted classes, (N,) float64 from 0 to 1.
        losses: The negative logarithms of the probabilities of the true classes, (N,) float64.
        top_classes: The k most probable classes, the most probable first, (N, k) int64.
        top_probabilities: The probabilities of the k most probable classes, (N, k) float64 from 0 to 1.
    """

    num_classes: int
    targets: NDArray[np.int64]
    predictions: NDArray[np.int64]
    ranks: NDArray[np.int64]
    confidences: NDArray[np.float64]
    losses: NDArray[np.float64]
    top_classes: NDArray[np.int64]
    top_probabilities: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, (N,) bool."""
        right: NDArray[np.bool_] = self.predictions == self.targets
        return right

    def mistakes(self) -> list[int]:
        """Return the positions of the wrong predictions, the most confident first."""
        confidence = np.where(self.correct, -1.0, self.confidences)
        order: list[int] = np.argsort(-confidence, kind="stable")[: int((~self.correct).sum())].tolist()
        return order


def answer_columns(logits: Tensor, targets: Tensor) -> tuple[NDArray[Any], ...]:
    """Return the columns of `Answers` for logits (B, N) and true classes (B,)."""
    logs = logits.log_softmax(1)
    predictions = logits.argmax(1)
    of_truth = logits.gather(1, targets[:, None])
    earlier = torch.arange(logits.shape[1], device=targets.device) < targets[:, None]
    ranks = ((logits > of_truth) | ((logits == of_truth) & earlier)).sum(1)
    confidences = logs.gather(1, predictions[:, None])[:, 0].exp()
    losses = -logs.gather(1, targets[:, None])[:, 0]
    # the prediction leads the best classes, also where several are equally probable
    first = logits.scatter(1, predictions[:, None], torch.inf)
    top = first.topk(min(_TOP, logits.shape[1]), 1).indices
    columns = (targets, predictions, ranks, confidences, losses, top, logs.gather(1, top).exp())
    return tuple(column.numpy() for column in columns)


def summary(answers: Answers, loss: float, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the numbers that follow from the answers: accuracy, loss, classes, mistakes and calibration.

    Args:
        answers: The answers to all images.
        loss: The mean of the loss that the network is trained with, without label smoothing; for a network that is
            not a trained task, and so has no known loss, the cross-entropy.
        names: The names of the classes.
    """
    count, right, among5 = len(answers.targets), int(answers.correct.sum()), answers.ranks < 5
    confusion = confusion_matrix(answers.targets, answers.predictions, answers.num_classes)
    of_class = np.bincount(answers.targets, among5, answers.num_classes)
    many = answers.num_classes > 5
    classes = class_table(confusion, names)
    for row, hits in zip(classes, of_class.tolist(), strict=True):
        row["top5"] = hits / row["images"] if many and row["images"] else None
    return {
        "images": count,
        "right": right,
        "top1": right / count,
        "top1_interval95": list(wilson_interval(right, count)),
        "top5": int(among5.sum()) / count if many else None,
        "top5_interval95": list(wilson_interval(int(among5.sum()), count)) if many else None,
        "mean_class_top1": mean_class_accuracy(confusion),
        "classes_left_out": [row["name"] for row in classes if not row["images"]],
        "loss": loss,
        "cross_entropy": float(answers.losses.mean()),
        "calibration": calibration(answers.confidences, answers.correct),
        "classes": classes,
        "confused": confused_pairs(confusion, names, _PAIRS),
        "confusion": confusion.tolist(),
    }
