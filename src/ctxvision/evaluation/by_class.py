"""Numbers from a confusion matrix: accuracy, precision and the most frequent mistake of every class."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


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
