"""The calibration of a classifier: whether its confidence equals its accuracy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
