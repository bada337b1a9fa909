"""onnxruntime's quantisation of our ONNX files: the large weights are integers afterwards."""

import numpy as np
import pytest

from _networks import EVERY_LAYER, lively
from ctxvision.export import Metadata, export_onnx

pytestmark = pytest.mark.slow

SIZE = 64


class Reader:  # as `CalibrationDataReader`, which is not there where the package is not
    def __init__(self):
        self.left = [{"images": np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE), np.float32)}]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module", params=["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def exported(request, tmp_path_factory):
    network = lively(request.param, num_classes=6, **EVERY_LAYER[request.param])
    spec = {"class_names": [*"abcdef"], "input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3}
    path = tmp_path_factory.mktemp("quantization") / "float.onnx"
    export_onnx(network, path, metadata=Metadata(request.param, "classification", spec))
    return path


def left_as_floats(path):
    """Return the number of float weights of layers that have at least a thousand."""
    import onnx

    graph = onnx.load(path).graph
    read = {name for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm") for name in node.input}
    large = {i.name for i in graph.initializer if i.data_type == 1 and np.prod(i.dims) >= 1000}
    return len(read & large)


def test_layers_have_constant_weights(exported):
    import onnx

    graph = onnx.load(exported).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    weights = [node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert weights
    assert not [made[name] for name in weights if name in made]
    assert left_as_floats(exported) > 5


def test_static(exported, tmp_path):
    from onnxruntime import quantization

    quantization.quantize_static(
        exported,
        tmp_path / "int8.onnx",
        Reader(),
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )
    assert left_as_floats(tmp_path / "int8.onnx") == 0


def test_dynamic(exported, tmp_path):
    from onnxruntime import quantization

    quantization.quantize_dynamic(exported, tmp_path / "int8.onnx")
    assert left_as_floats(tmp_path / "int8.onnx") == 0
