"""What ``POST /explain`` answers: arrays of `ctxvision.explain`, as JSON."""

import base64
import json
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.explain import (
    ContextualOffsets,
    LayerError,
    class_funnel,
    contextual_layers,
    contextual_offsets,
    grad_cam,
)
from ctxvision.explain.layers import last_of_each_stage
from ctxvision.inference.answer import ranking
from ctxvision.plots.pixels import data_uri, heat_colors, thumbnail
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual

from .network import ServedNetwork

_VIEW = 1024  # pixels of the longer side of what the page shows


def ranked(chances: Tensor, names: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    """Return the most probable classes of probabilities (N,), the first in their order where they are equal.

    Raises:
        FloatingPointError: The probabilities are not numbers.
    """
    values = chances.numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError("the output of the network is NaN or infinite")
    return [one.to_dict() for one in ranking(values, names, top_k)]


def explain(network: ServedNetwork, image: Tensor, asked: int | None, top_k: int) -> bytes:
    """Look into a network while it reads an image.

    Args:
        network: ServedNetwork that has a checkpoint.
        image: Normalised input of the network, (C, H, W).
        asked: Class to explain and to follow; by default the answer.
        top_k: Number of classes in the ranking.

    Returns:
        The bytes of the JSON of `ctxvision.serve.schemas.ExplanationAnswer`.
    """
    task, names = network.task, network.spec.class_names
    assert task is not None
    (chances,) = network.probabilities([image])
    top = ranked(chances, names, top_k)
    chosen = names.index(top[0]["class"]) if asked is None else asked
    batch = image[None].to(task.device, memory_format=task.memory_format)
    answer = {
        "model": network.name,
        "view": thumbnail(image, network.spec.mean, network.spec.std, _VIEW),
        "view_size": list(image.shape[1:]),
        "predictions": top,
        "grad_cam": _cam(task, batch, names[chosen], chosen, float(chances[chosen])),
        "funnel": _funnel(task, batch, names, chosen),
        "offsets": _offsets(task, batch),
    }
    return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()


def _cam(
    task: ClassificationTask, batch: Tensor, name: str, chosen: int, probability: float
) -> dict[str, Any] | None:
    try:
        (cam,) = grad_cam(task.model, batch, [chosen])
    except LayerError:
        return None
    heat = Image.fromarray((heat_colors(cam.map) * 255).round().astype(np.uint8))
    return {
        "class": name,
        "probability": probability,
        **cam.to_dict(),
        "scored_by": cam.scored_by,
        "picture": data_uri(heat, lossless=True, side=_VIEW),
    }


def _funnel(task: ClassificationTask, batch: Tensor, names: tuple[str, ...], chosen: int) -> dict[str, Any] | None:
    if not is_contextual(task.model):
        return None
    (funnel,) = class_funnel(task.model, batch, [chosen])
    return funnel.to_dict(names)


@torch.no_grad()
def _offsets(task: ClassificationTask, batch: Tensor) -> list[dict[str, Any]]:
    chosen = last_of_each_stage(task.model, contextual_layers(task.model))
    stages = {layer: stage for stage, layer in chosen}
    found = contextual_offsets(task.model, batch, list(stages)) if stages else []
    return [_of_layer(stages[layer.name], layer) for layer in found]


def _of_layer(stage: int, found: ContextualOffsets) -> dict[str, Any]:
    high, wide = found.kernel
    moves = found.sampled[0] - found.regular  # (K, H', W', 2)
    scale = float(np.abs(moves).max()) / 32767 or 1.0
    return {
        "stage": stage,
        "layer": found.name,
        "kernel": [high, wide],
        "size": list(moves.shape[1:3]),
        "rows": found.regular[::wide, :, 0, 0].tolist(),
        "columns": found.regular[:wide, 0, :, 1].tolist(),
        "scale": scale,
        "moves": base64.b64encode(np.round(moves / scale).astype("<i2").tobytes()).decode(),
        "mean_distance": float(found.sampling_offset.mean()),
        "largest_distance": float(found.sampling_offset.max()),
        "kernel_change": None if found.weight_offset is None else float(found.weight_offset[0]),
    }
