"""What a confusion matrix says: accuracy, precision and the usual mistake of every class."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion_matrix(targets: Counts, predictions: Counts, num_classes: int) -> Counts:
    """Count how often each true class (row) was taken for each class (column).

    Args:
        targets: true classes, (N,).
        predictions: (N,).
        num_classes: of the network; classes without images have empty rows.

    Returns:
        (num_classes, num_classes) int64.
    """
    cells = np.bincount(targets * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_table(confusion: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe every class, in their order.

    A share of nothing is ``None``: the accuracy of a class without images, the precision of one that was
    never predicted. Of classes that one is equally often taken for, the first is named.

    Args:
        confusion: (classes, classes), rows are true classes.
        names: one per class.
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
    """Return the mean of the accuracies of the classes that have images."""
    images = confusion.sum(1)
    return float((confusion.diagonal()[images > 0] / images[images > 0]).mean())


def confused_pairs(confusion: Counts, names: Sequence[str], limit: int | None = None) -> list[dict[str, Any]]:
    """List the mistakes by kind, the most frequent first, equally frequent ones in the order of the classes."""
    wrong = confusion - np.diag(confusion.diagonal())
    truths, predictions = wrong.nonzero()
    counts = wrong[truths, predictions]
    order = np.argsort(-counts, kind="stable")[:limit]
    return [
        {"truth": names[truths[k]], "prediction": names[predictions[k]], "images": int(counts[k])} for k in order
    ]


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
