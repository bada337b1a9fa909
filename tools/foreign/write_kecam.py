"""Write a CoTNet of keras_cv_attention_models with random weights, and what it computes.

Runs in an environment of its own, which `tools/verify_weights.py` makes: ``python write_kecam.py '{"out": …}'``.
The backend is TensorFlow, or with KECAM_BACKEND=torch that package's own on torch.
"""

import inspect
import json
import sys

import numpy as np
from kecam_noise import set_noise
from keras_cv_attention_models import cotnet

job = json.loads(sys.argv[1])


def build(size: int):
    """Build the network of the job for square images; it differs from size to size in nothing else."""
    options = {**job.get("options", {}), "input_shape": (size, size, 3), "num_classes": job["classes"]}
    network = getattr(cotnet, job["network"])
    if network is cotnet.CotNet or "model_name" in inspect.signature(network).parameters:
        options["model_name"] = "small"
    return network(**options, pretrained=None, classifier_activation=None)


def run(model, images: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of the four stages, ``(B, C, H, W)``, and the logits."""
    names = [layer.name for layer in model.layers]
    last = [
        [n for n in names if n.startswith(f"stack{stage}_") and n.endswith("_output")][-1]
        for stage in (1, 2, 3, 4)
    ]
    from keras_cv_attention_models import backend

    if backend.is_torch_backend:
        import torch

        if job.get("double"):
            model, images = model.double(), images.astype("float64")
        model.eval()
        with torch.no_grad():
            outputs = []
            for name in last:
                part = backend.models.Model(model.inputs[0], model.get_layer(name).output)
                part.eval()
                outputs.append(part(torch.from_numpy(images)).numpy())
            return [*outputs, model(torch.from_numpy(images)).numpy()]
    part = backend.models.Model(model.inputs[0], [*(model.get_layer(name).output for name in last), model.output])
    outputs = [np.asarray(value) for value in part(images.transpose(0, 2, 3, 1), training=False)]
    return [value.transpose(0, 3, 1, 2) if value.ndim == 4 else value for value in outputs]


arrays = {}
for number, size in enumerate(job["sizes"]):
    model = build(size)
    set_noise(model)
    if number == 0:
        (model.save if job.get("whole") else model.save_weights)(job["out"])
    images = np.random.default_rng(size).normal(size=(1, 3, size, size)).astype("float32")
    *stages, logits = run(model, images)
    arrays |= {f"logits_{size}": logits, **{f"stage{i}_{size}": value for i, value in enumerate(stages, 1)}}
np.savez(job["answers"], **arrays)
