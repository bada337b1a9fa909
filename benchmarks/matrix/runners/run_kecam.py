"""CoTNets of keras_cv_attention_models on torch, in an environment with it: started by ``benchmarks.matrix``."""

import os
import zlib
from typing import Any

os.environ["KECAM_BACKEND"] = "torch"  # before its import
import keras_cv_attention_models as kecam
import numpy as np
import torch
from serving import Call, serve


def _noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise in the range of trained values, seeded by the name of the weight."""
    noise, kind = np.random.default_rng(zlib.crc32(name.encode())), name.rpartition("/")[2].partition(":")[0]
    if "var" in kind:
        return noise.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        return noise.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    if kind in ("gamma", "weight"):
        return noise.uniform(0.5, 1.5, shape) * (0.2 if "_3_bn" in name else 1)
    return noise.normal(0, 0.1, shape)


def _fill(model: Any) -> None:
    for layer in model.layers:
        channels_last = hasattr(layer, "get_weights_channels_last")
        values = layer.get_weights_channels_last() if channels_last else layer.get_weights()
        new = [
            _noise(f"{layer.name}/{weight.name}", np.shape(value)).astype("float32")
            for weight, value in zip(layer.weights, values, strict=True)
        ]
        if new:
            (layer.set_weights_channels_last if channels_last else layer.set_weights)(new)


def open_network(request: dict[str, Any], images: np.ndarray) -> tuple[Call, Any, str]:
    """Build a network, write its weights to ``request["weights"]``, and take the faster memory format."""
    torch.set_num_threads(request["threads"])
    torch._dynamo.reset()
    size = images.shape[-1]
    model = getattr(kecam.cotnet, request["network"])(
        input_shape=(size, size, 3), num_classes=1000, pretrained=None, classifier_activation=None
    )
    _fill(model)
    model.save_weights(request["weights"])
    model.eval()
    detail = f"kecam {kecam.__version__}, torch {torch.__version__.split('+')[0]}"
    given, function = torch.from_numpy(images), model
    if request["form"] == "compiled":
        options = {} if request["compiler"] else {"options": {"freezing": True}}
        function = torch.compile(model, backend=request["compiler"] or "inductor", dynamic=False, **options)

    def call() -> torch.Tensor:
        with torch.no_grad():
            return function(given)

    return call, lambda found: found.numpy(), detail


if __name__ == "__main__":
    serve(open_network)
