"""What an explanation says about the layers that depend on the image: offsets, kernels, contexts."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from .generated_kernels import Contexts, Kernels, generated_kernels
from .layers import MIN_SIDE
from .offsets import Bend, bends
from .pictures import Picture
from .pictures.bends import taps_picture
from .pictures.kernels import contexts_picture, fusion_picture, mosaic_picture, sums_picture
from .stages import last_of_each_stage


def where_most(heat: np.ndarray) -> tuple[float, float]:
    """Return the pixel (y, x) where a map (H, W) is highest, or the middle of one that is all 0."""
    place = np.unravel_index(heat.argmax(), heat.shape) if heat.max() > 0 else np.array(heat.shape) / 2
    return float(place[0]), float(place[1])


def of_one(found: Any, index: int, prefix: str) -> Any:
    """Keep one image of a batch.

    Args:
        found: of `bends` or `generated_kernels`.
        index: of the image.
        prefix: left out of the layer's name.
    """
    of_batch = {
        part.name: value[index : index + 1]
        for part in fields(found)
        if part.name != "plain" and isinstance(value := getattr(found, part.name), np.ndarray)
    }
    return replace(found, name=found.name.removeprefix(prefix), **of_batch)


def of_offsets(
    model: nn.Module, image: Tensor, pixels: np.ndarray, at: tuple[float, float], name: str
) -> tuple[list[dict[str, Any]], list[Picture]]:
    """Say where the contextual convolutions of a network read.

    Args:
        model: has some.
        image: what it reads, (1, C, H, W).
        pixels: the same as RGB in [0, 1], (H, W, 3).
        at: the pixel (y, x) whose taps are drawn.
        name: how names of pictures begin.
    """
    return show_bends(model, bends(model, image), pixels, at, name)


def show_bends(
    model: nn.Module, found: list[Bend], pixels: np.ndarray, at: tuple[float, float], name: str
) -> tuple[list[dict[str, Any]], list[Picture]]:
    """Say where the contextual convolutions of a network read one image, from what `bends` found."""
    numbers = [
        {
            "layer": bend.name,
            "mean_distance_pixels": float(bend.lengths.mean()),
            "largest_distance_pixels": float(bend.lengths.max()),
            "kernel_change": None if bend.kernel_change is None else float(bend.kernel_change[0]),
            "grid_exact": bend.grid.exact,
        }
        for bend in found
    ]
    chosen = last_of_each_stage(model, [bend.name for bend in found])
    by_name = {bend.name: bend for bend in found}
    layers = [(stage, by_name[layer]) for stage, layer in chosen]
    return numbers, [taps_picture(layers, pixels, at, f"{name}-offsets")] if layers else []


def of_kernels(
    model: nn.Module, image: Tensor, pixels: np.ndarray, name: str
) -> tuple[list[dict[str, Any]], list[Picture]]:
    """Say what the involution and CoT layers of a network generate; arguments as for `of_offsets`."""
    return show_kernels(model, generated_kernels(model, image), pixels, name)


def show_kernels(
    model: nn.Module, found: list[Kernels | Contexts], pixels: np.ndarray, name: str
) -> tuple[list[dict[str, Any]], list[Picture]]:
    """Say what the involution and CoT layers generate for one image, from what `generated_kernels` found."""
    if not found:
        return [], []
    chosen = {layer for _, layer in last_of_each_stage(model, [layer.name for layer in found])}
    shown = [layer for layer in found if layer.name in chosen]
    fine = [layer for layer in shown if min(layer.kernels.shape[3:]) >= MIN_SIDE] or shown[:1]
    pictures = [sums_picture(shown, pixels, f"{name}-sums"), mosaic_picture(fine[-1], f"{name}-kernels")]
    contexts = [layer for layer in shown if isinstance(layer, Contexts)]
    if contexts:
        pictures.append(contexts_picture(contexts, pixels, f"{name}-contexts"))
    fused = [layer for layer in found if isinstance(layer, Contexts) and layer.dynamic_share is not None]
    if fused:
        pictures.append(fusion_picture(fused, f"{name}-fusion"))
    numbers = []
    for layer in found:
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
        numbers.append(entry)
    return numbers, pictures
