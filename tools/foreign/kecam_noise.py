"""Noise for the weights of networks of keras_cv_attention_models; in an environment that has it."""

import zlib
from typing import Any

import numpy as np


def _noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random, kind = np.random.default_rng(zlib.crc32(name.encode())), name.rpartition("/")[2].partition(":")[0]
    if "var" in kind:
        return random.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        return random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    if kind in ("gamma", "weight"):
        return random.uniform(0.5, 1.5, shape) * (0.2 if "_3_bn" in name else 1)
    return random.normal(0, 0.1, shape)


def set_noise(model: Any) -> None:
    """Fill all weights with noise seeded by their names, in the range of trained values, also statistics."""
    for layer in model.layers:
        channels_last = hasattr(layer, "get_weights_channels_last")  # the package's backend on torch
        values = layer.get_weights_channels_last() if channels_last else layer.get_weights()
        new = [
            _noise(f"{layer.name}/{weight.name}", np.shape(value)).astype("float32")
            for weight, value in zip(layer.weights, values, strict=True)
        ]
        if new:
            (layer.set_weights_channels_last if channels_last else layer.set_weights)(new)
