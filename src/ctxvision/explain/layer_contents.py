"""Offsets, kernels and contexts of the layers that depend on the image, for an image or a frame of a clip."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from ctxvision.plots.picture import Picture
from ctxvision.plots.pixels import Pixels

from .explanation import ImageExplanation
from .figures.layers import contexts_picture, fusion_picture, mosaic_picture, sums_picture, taps_picture
from .kernels import Contexts, Kernels, generated_kernels, kernel_layers
from .layers import MIN_SIDE, last_of_each_stage
from .offsets import ContextualOffsets, contextual_layers, contextual_offsets

Contents = TypeVar("Contents", ContextualOffsets, Kernels)


def add_layer_contents(
    explained: ImageExplanation,
    model: nn.Module,
    view: Tensor,
    pixels: Pixels,
    at: tuple[float, float],
    name: str,
    *,
    row: int = 0,
    prefix: str = "",
    frame: int | None = None,
) -> None:
    """Add the offsets and kernels of a network's layers to an explanation: arrays, numbers and figures.

    Args:
        explained: The explanation of the image, which is extended in place.
        model: The network, or the part of it that has maps of the whole image.
        view: The normalised input of ``model``, (B, C, H, W).
        pixels: The same image for readers, RGB from 0 to 1, (H, W, 3).
        at: The pixel (y, x) whose taps are drawn, where the evidence for the answer is strongest.
        name: The beginning of the names of the figures.
        row: The index of the explained image in the batch.
        prefix: The beginning of the names of layers in ``model`` that the names in the explanation leave out.
        frame: The number of the frame in the video; ``None`` for an image.
    """
    title = "" if frame is None else f", frame {frame}"
    if contextual_layers(model):
        explained.offsets = [_of_one(found, row, prefix) for found in contextual_offsets(model, view)]
        explained.entry["bends"] = [_offset_numbers(found) for found in explained.offsets]
        shown = of_stages(model, explained.offsets, prefix)
        if shown and all(layer.still for _, layer in shown):
            explained.notes.append(
                "No tap moves: all sampling offsets Δp are 0, so that the contextual convolutions read where "
                "plain ones would, and no picture of them is drawn."
            )
        elif shown:
            draw = partial(taps_picture, shown, pixels, at, f"{name}-offsets")
            explained.drawings.append(partial(_titled, draw, title))
    if kernel_layers(model):
        explained.kernels = [_of_one(found, row, prefix) for found in generated_kernels(model, view)]
        explained.entry["kernels"] = [_kernel_numbers(found) for found in explained.kernels]
        chosen = [layer for _, layer in of_stages(model, explained.kernels, prefix)]
        for draw in _kernel_drawings(explained.kernels, chosen, pixels, name):
            explained.drawings.append(partial(_titled, draw, title))


def of_stages(model: nn.Module, found: Sequence[Any], prefix: str = "") -> list[tuple[int, Any]]:
    """Choose the results of the last layer of each stage, and return them with the number of the stage."""
    by_name = {f"{prefix}{layer.name}": layer for layer in found}
    return [(stage, by_name[layer]) for stage, layer in last_of_each_stage(model, list(by_name))]


def _titled(draw: Any, more: str) -> Picture:
    picture: Picture = draw()
    return replace(picture, title=f"{picture.title}{more}")


def _of_one(found: Contents, row: int, prefix: str) -> Contents:
    """Return the results for one image of a batch."""
    of_batch: dict[str, Any] = {
        part.name: value[row : row + 1]
        for part in fields(found)
        if part.name != "regular" and isinstance(value := getattr(found, part.name), np.ndarray)
    }
    return replace(found, name=found.name.removeprefix(prefix), **of_batch)


def _offset_numbers(found: ContextualOffsets) -> dict[str, Any]:
    return {
        "layer": found.name,
        "mean_distance_pixels": float(found.sampling_offset.mean()),
        "largest_distance_pixels": float(found.sampling_offset.max()),
        "kernel_change": None if found.weight_offset is None else float(found.weight_offset[0]),
        "grid_exact": found.grid.exact,
    }


def _kernel_drawings(found: list[Kernels], chosen: list[Kernels], pixels: Pixels, name: str) -> list[Any]:
    """Return functions that draw the kernels, and the contexts of CoT layers."""
    if not found:
        return []
    fine = [layer for layer in chosen if min(layer.kernels.shape[3:]) >= MIN_SIDE] or chosen[:1]
    # one colour all over, of a layer that has a single position, says nothing beside the others
    chosen = [layer for layer in chosen if layer.kernels[0, 0, 0].size > 1] or chosen
    drawings: list[Any] = [
        partial(sums_picture, chosen, pixels, f"{name}-sums"),
        partial(mosaic_picture, fine[-1], f"{name}-kernels"),
    ]
    contexts = [layer for layer in chosen if isinstance(layer, Contexts)]
    if contexts:
        drawings.append(partial(contexts_picture, contexts, pixels, f"{name}-contexts"))
    fused = [layer for layer in found if isinstance(layer, Contexts) and layer.dynamic_share is not None]
    if fused:
        drawings.append(partial(fusion_picture, fused, f"{name}-fusion"))
    return drawings


def _kernel_numbers(layer: Kernels) -> dict[str, Any]:
    sums = layer.sums()[0]
    entry: dict[str, Any] = {
        "layer": layer.name,
        "groups": len(sums),
        "kernel": list(layer.kernel),
        "size": list(sums.shape[1:]),
        "mean_sum_by_group": [float(value) for value in sums.mean((1, 2))],
        "std_sum_by_group": [float(value) for value in sums.std((1, 2))],
    }
    if isinstance(layer, Contexts):
        entry["static_strength"] = float(np.sqrt(np.square(layer.static).mean()))
        entry["dynamic_strength"] = float(np.sqrt(np.square(layer.dynamic).mean()))
        shares = layer.dynamic_share
        entry["dynamic_share"] = None if shares is None else [round(float(value), 5) for value in shares[0]]
    return entry
