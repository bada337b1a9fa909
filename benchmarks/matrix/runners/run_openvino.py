"""OpenVINO on the CPU, in an environment that has it: started by ``benchmarks.matrix``."""

from typing import Any

import numpy as np
import openvino as ov
from serving import Call, serve

core = ov.Core()


def open_network(request: dict[str, Any], images: np.ndarray) -> tuple[Call, Any, str]:
    """Compile an ONNX file for images of one shape, as OpenVINO's documentation advises for latency."""
    precision = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[request["dtype"]]
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("OpenVINO does not compute in bfloat16 on this processor")
    model = core.read_model(request["file"])
    model.reshape(list(images.shape))
    options = {
        "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": request["threads"],
    }  # fmt: skip
    made = core.compile_model(model, "CPU", options).create_infer_request()
    given = ov.Tensor(images)
    return (
        lambda: made.infer([given]),
        lambda found: np.array(found[0]),
        f"OpenVINO {ov.__version__.split('-')[0]}",
    )


if __name__ == "__main__":
    serve(open_network)
