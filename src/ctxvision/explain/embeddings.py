"""Class embeddings: the similarities of the classes in a network, and their places on a plane."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ctxvision.tasks.classification.class_sets import is_contextual


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
