"""What ``POST /explain`` answers: arrays of `ctxvision.explain`, as JSON."""

import base64
import json
import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.explain import (
    Contexts,
    ContextualOffsets,
    Kernels,
    LayerError,
    class_funnel,
    contextual_layers,
    contextual_offsets,
    generated_kernels,
    grad_cam,
    kernel_layers,
)
from ctxvision.explain.cams import rounded
from ctxvision.explain.layers import PixelGrid, grid_of, last_of_each_stage, pixel_grids
from ctxvision.inference.answer import ranking
from ctxvision.plots.pixels import data_uri, heat_colors, thumbnail
from ctxvision.plots.style import spread
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual

from .network import ServedNetwork

_VIEW = 1024  # pixels of the longer side of what the page shows
_GROUPS = 4  # of a layer's kernels, evenly spread
_WEIGHTS = 160_000  # of one layer, at most, beyond its first group: one byte each


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
    answer: dict[str, Any] = {
        "model": network.name,
        "view": thumbnail(image, network.spec.mean, network.spec.std, _VIEW),
        "view_size": list(image.shape[1:]),
        "scaled_to": [math.floor(side / network.spec.crop_pct) for side in image.shape[1:]],
        "predictions": top,
    }
    with network.undisturbed():
        answer |= {
            "grad_cam": _cam(task, batch, names[chosen], chosen, float(chances[chosen])),
            "funnel": _funnel(task, batch, names, chosen),
            "offsets": _offsets(task, batch),
            "kernels": _kernels(task, batch),
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


@torch.no_grad()
def _kernels(task: ClassificationTask, batch: Tensor) -> list[dict[str, Any]]:
    chosen = last_of_each_stage(task.model, kernel_layers(task.model))
    stages = {layer: stage for stage, layer in chosen}
    if not stages:
        return []
    grids, image = pixel_grids(task.model, batch), (int(batch.shape[2]), int(batch.shape[3]))
    answers = []
    for found in generated_kernels(task.model, batch, list(stages)):
        height, width = found.kernels.shape[3:]
        dilation = int(task.model.get_submodule(found.name).dilation)  # type: ignore[arg-type]
        answers.append(_of_kernels(stages[found.name], found, grid_of(grids, (height, width), image), dilation))
    return answers


def _of_kernels(stage: int, found: Kernels, grid: PixelGrid, dilation: int) -> dict[str, Any]:
    groups, taps, height, width = found.kernels.shape[1:]
    shown = spread(groups, min(_GROUPS, max(1, _WEIGHTS // (taps * height * width))))
    weights = found.kernels[0, shown]
    scale = float(np.abs(weights).max()) / 127 or 1.0
    rows, columns = (
        [
            [(place + (tap - (side - 1) / 2) * dilation) * step + start for place in range(places)]
            for tap in range(side)
        ]
        for side, places, step, start in zip(found.kernel, (height, width), grid.step, grid.start, strict=True)
    )
    share = found.dynamic_share if isinstance(found, Contexts) else None
    return {
        "stage": stage,
        "layer": found.name,
        "kind": "attention" if isinstance(found, Contexts) else "involution",
        "kernel": list(found.kernel),
        "size": [height, width],
        "rows": rows,
        "columns": columns,
        "groups": [group + 1 for group in shown],
        "of_groups": groups,
        "scale": scale,
        "weights": base64.b64encode(np.round(weights / scale).astype("i1").tobytes()).decode(),
        "static": rounded(found.static[0]) if isinstance(found, Contexts) else None,
        "dynamic": rounded(found.dynamic[0]) if isinstance(found, Contexts) else None,
        "dynamic_share": None if share is None else float(share[0].mean()),
    }
