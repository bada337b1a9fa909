"""CoTNets of keras_cv_attention_models on torch, in an environment with it: started by ``benchmarks.matrix``."""

import os
from typing import Any

os.environ["KECAM_BACKEND"] = "torch"  # before its import
import keras_cv_attention_models as kecam
import numpy as np
import torch
from kecam_noise import set_noise
from serving import Call, serve


def open_network(request: dict[str, Any], images: np.ndarray) -> tuple[Call, Any, str]:
    """Build a network, write its weights to ``request["weights"]``, and take the faster memory format."""
    torch.set_num_threads(request["threads"])
    torch._dynamo.reset()
    size = images.shape[-1]
    model = getattr(kecam.cotnet, request["network"])(
        input_shape=(size, size, 3), num_classes=1000, pretrained=None, classifier_activation=None
    )
    set_noise(model)
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
