"""What an explanation says about the classes: their embeddings, and what became of them over a data set."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ctxvision.tasks import ClassificationTask

from .embeddings import class_embeddings, similarities
from .error import ReportError
from .fates import class_fates
from .offsets import bend_by_class, contextual_layers
from .pictures import Picture
from .pictures.bends import class_bends_picture
from .pictures.classes import off_diagonal, similarity_picture
from .pictures.fates import lost_picture, lost_to_picture, recall_picture
from .stages import last_of_each_stage

_CLASSES = 100  # more have no similarity matrix in the JSON file


def network_labels(task: ClassificationTask, against: ClassificationTask | None) -> tuple[str, str]:
    """Name the two networks, with letters before the names where these are the same."""
    first = str(task.hparams["model"])
    second = "" if against is None else str(against.hparams["model"])
    return (f"A: {first}", f"B: {second}") if first == second else (first, second)


def of_classes(
    task: ClassificationTask, against: ClassificationTask | None, plane: np.ndarray
) -> tuple[dict[str, Any], Picture]:
    """Compare the classes by their embeddings: entry ``embeddings`` of the numbers, and its picture."""
    names = task.data_spec["class_names"]
    label, other = network_labels(task, against)
    matrices = [(label, similarities(class_embeddings(task.model)))]
    if against is not None:
        theirs = list(against.data_spec["class_names"])
        rows = class_embeddings(against.model)[[theirs.index(name) for name in names]]
        matrices.append((other, similarities(rows)))
    few = len(names) <= _CLASSES
    numbers = {
        "plane": [[round(float(x), 4), round(float(y), 4)] for x, y in plane],
        "similarity": [
            {
                "network": network,
                "mean": float(off_diagonal(cosines).mean()),
                "std": float(off_diagonal(cosines).std()),
                "highest": float(off_diagonal(cosines).max()),
                "most_similar": _most_similar(cosines, names),
                "matrix": [[round(float(value), 5) for value in row] for row in cosines] if few else None,
            }
            for network, cosines in matrices
        ],
    }
    return numbers, similarity_picture(matrices, names)


def _most_similar(cosines: np.ndarray, names: Sequence[str], limit: int = 20) -> list[dict[str, Any]]:
    upper = np.triu(np.ones_like(cosines, dtype=bool), 1)
    first, second = np.nonzero(upper)
    order = np.argsort(-cosines[first, second], kind="stable")[:limit]
    return [
        {"classes": [names[first[k]], names[second[k]]], "cosine": float(cosines[first[k], second[k]])}
        for k in order
    ]


def of_data(
    task: ClassificationTask,
    data: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    data_name: str,
) -> tuple[dict[str, Any], list[Picture]]:
    """Follow the true classes of a data set: entry ``data`` of the numbers, and its pictures.

    Raises:
        ReportError: not one image can be read.
    """
    names = task.data_spec["class_names"]
    try:
        fates = class_fates(task.model, data())
    except ValueError as error:
        raise ReportError(f"{data_name}: {error}") from error
    pictures = [recall_picture(fates), lost_picture(fates, names)]
    to_whom = lost_to_picture(fates, names)
    pictures += [to_whom] if to_whom else []
    found = bend_by_class(task.model, data()) if contextual_layers(task.model) else []
    if found:
        by_name = {bend.name: bend for bend in found}
        chosen = last_of_each_stage(task.model, list(by_name))
        pictures.append(class_bends_picture([(stage, by_name[layer]) for stage, layer in chosen], names))
    counts = fates.lost_by_class()
    steps = zip(fates.steps, fates.scored, fates.kept, fates.recall(), strict=True)
    numbers = {
        "name": data_name,
        "images": len(fates.targets),
        "steps": [{"name": n, "scored": s, "kept": k, "recall": float(r)} for n, s, k, r in steps],
        "classes": [
            {"class": name, "lost": row[:-1].tolist(), "right": int(row[-1])}
            for name, row in zip(names, counts, strict=True)
        ],
        "lost_to": [
            {"truth": names[true], "step": fates.steps[step], "to": names[winner], "images": count}
            for true, step, winner, count in fates.lost_to()[:1000]
        ],
        "bends_by_class": [
            {
                "layer": bend.name,
                "distance_pixels": [_or_none(value) for value in bend.lengths],
                "kernel_change": [_or_none(value) for value in bend.kernel_change],
            }
            for bend in found
        ],
    }
    return numbers, pictures


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
