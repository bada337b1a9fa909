"""A classifier's answers to the images of a data set, and what follows from them: classes, calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]

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


def confusion_matrix(targets: Counts, predictions: Counts, num_classes: int) -> Counts:
    """Count how often each true class (row) was predicted as each class (column).

    Args:
        targets: The true classes, (N,) int64.
        predictions: The predicted classes, (N,) int64.
        num_classes: The number of classes of the network; classes without images have empty rows.

    Returns:
        The counts, (num_classes, num_classes) int64.
    """
    cells = np.bincount(targets * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_table(confusion: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe every class, in the order of the classes.

    A share of zero images is ``None``: the accuracy of a class without images, the precision of a class that was
    never predicted. If several wrong classes are equally frequent, the first is named.

    Args:
        confusion: The confusion matrix, (classes, classes) int64; rows are true classes.
        names: The names of the classes, one per class.
    """
    images, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    wrong = confusion - np.diag(right)
    rival = wrong.argmax(1)
    return [
        {
            "name": name,
            "images": int(images[i]),
            "right": int(right[i]),
            "top1": int(right[i]) / int(images[i]) if images[i] else None,
            "predicted": int(predicted[i]),
            "precision": int(right[i]) / int(predicted[i]) if predicted[i] else None,
            "confused_with": names[rival[i]] if wrong[i, rival[i]] else None,
            "confused_images": int(wrong[i, rival[i]]),
        }
        for i, name in enumerate(names)
    ]


def mean_class_accuracy(confusion: Counts) -> float:
    """Return the mean accuracy of the classes with images in a confusion matrix (classes, classes)."""
    images = confusion.sum(1)
    return float((confusion.diagonal()[images > 0] / images[images > 0]).mean())


def confused_pairs(confusion: Counts, names: Sequence[str], limit: int | None = None) -> list[dict[str, Any]]:
    """List the pairs of true and wrongly predicted class with their numbers of images, the most frequent first.

    Args:
        confusion: The confusion matrix, (classes, classes) int64; rows are true classes.
        names: The names of the classes, one per class.
        limit: The largest number of pairs to list; by default all are listed.

    Returns:
        The pairs, each with ``truth``, ``prediction`` and ``images``; equally frequent ones are in the order of
        the classes.
    """
    wrong = confusion - np.diag(confusion.diagonal())
    truths, predictions = wrong.nonzero()
    counts = wrong[truths, predictions]
    order = np.argsort(-counts, kind="stable")[:limit]
    return [
        {"truth": names[truths[k]], "prediction": names[predictions[k]], "images": int(counts[k])} for k in order
    ]


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval, two shares from 0 to 1, for a share of ``right`` in ``total``.

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


def calibration(confidences: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> dict[str, Any]:
    """Compare confidence and accuracy in bins of equal width.

    A bin holds the confidences in (from, to]; the first bin also holds 0. The expected calibration error (ECE) is
    the mean over all images of the difference between confidence and accuracy of their bin.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.

    Args:
        confidences: The probabilities of the predicted classes, (N,) float64 in [0, 1].
        correct: Whether each prediction is right, (N,) bool.
        bins: The number of bins.

    Returns:
        A dictionary with ``ece``; ``confidence``, the mean over all images; and ``bins``, each with ``from``,
        ``to``, ``images``, the mean ``confidence`` and the accuracy ``top1``, which are ``None`` in a bin without
        images.

    Examples:
        >>> result = calibration(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]), bins=2)
        >>> round(result["ece"], 4), result["bins"][1]["images"]
        (0.1333, 3)
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    sure = np.bincount(place, confidences, bins)
    right = np.bincount(place, correct.astype(np.float64), bins)
    return {
        "ece": float(np.abs(sure - right).sum() / len(confidences)),
        "confidence": float(np.mean(confidences)),
        "bins": [
            {
                "from": float(edges[i]),
                "to": float(edges[i + 1]),
                "images": int(images[i]),
                "confidence": float(sure[i] / images[i]) if images[i] else None,
                "top1": float(right[i] / images[i]) if images[i] else None,
            }
            for i in range(bins)
        ],
    }
