"""What a confusion matrix says: accuracy, precision and the usual mistake of every class."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

_BLUE, _ORANGE = (56, 132, 214), (214, 110, 34)  # legible on white and on black


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
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


def class_table(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
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


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """Return the mean of the accuracies of the classes that have images."""
    images = confusion.sum(1)
    return float((confusion.diagonal()[images > 0] / images[images > 0]).mean())


def confused_pairs(confusion: np.ndarray, names: Sequence[str], limit: int | None = None) -> list[dict[str, Any]]:
    """List the mistakes by kind, the most frequent first, equally frequent ones in the order of the classes."""
    wrong = confusion - np.diag(confusion.diagonal())
    truths, predictions = wrong.nonzero()
    counts = wrong[truths, predictions]
    order = np.argsort(-counts, kind="stable")[:limit]
    return [
        {"truth": names[truths[k]], "prediction": names[predictions[k]], "images": int(counts[k])} for k in order
    ]


def confusion_picture(confusion: np.ndarray, side: int = 500) -> str:
    """Draw a confusion matrix of many classes as a PNG with a transparent background, a data URI.

    What is right is blue, mistakes are orange; the opacity is the square root of the share of the row, so that
    single mistakes still show. Neighbouring classes share a pixel where there are more than ``side``.
    """
    size = len(confusion)
    block = -(-size // side)
    edges = np.arange(0, size, block)
    cells = np.add.reduceat(np.add.reduceat(confusion, edges, 0), edges, 1)
    right = np.add.reduceat(confusion.diagonal(), edges)
    diagonal = np.eye(len(cells), dtype=bool)
    cells[diagonal] = right
    images = np.add.reduceat(confusion.sum(1), edges)
    share = np.sqrt(cells / np.maximum(images, 1)[:, None])
    pixels = np.zeros((*cells.shape, 4), np.uint8)
    pixels[..., :3] = np.where(diagonal[..., None], _BLUE, _ORANGE)
    pixels[..., 3] = np.where(cells > 0, np.round(255 * (0.3 + 0.7 * share)), 0)
    pixels[cells == 0] = 0
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
