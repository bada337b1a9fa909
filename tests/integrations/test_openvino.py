"""OpenVINO takes our networks as they are: traced by itself, as exported programs, and as ONNX files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from _networks import EVERY_LAYER, lively

pytestmark = pytest.mark.slow

NETWORKS = ["cotnet_micro", "cotnext50_2x48d", "rednet_micro", "contextual_convnext_micro", "contextual_resnet50"]


def computed(model, images):
    import openvino

    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(np.array(compiled(images.numpy())[0]))


@pytest.fixture(params=NETWORKS)
def network(request):
    return lively(request.param, num_classes=6, **EVERY_LAYER[request.param])


def close(found, network, images):
    with torch.no_grad():
        expected = network(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_module(network):
    import openvino

    model = openvino.convert_model(network, example_input=torch.randn(1, 3, 64, 64))
    for shape in ((1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 96, 64)):
        images = torch.randn(shape)
        close(computed(model, images), network, images)


def test_exported_program(network):
    import openvino

    images = torch.randn(2, 3, 64, 64)
    model = openvino.convert_model(torch.export.export(network, (images,)))
    close(computed(model, images), network, images)


def test_a_cell_of_the_matrix(tmp_path):
    sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is a folder of the repository
    from benchmarks.matrix.plan import Plan
    from benchmarks.matrix.run import run

    plan = Plan({"cotnet_micro": "resnet10t"}, ("openvino",), ("float32",), (1, 2), {}, 32, 1, 1, 0.0, tmp_path)
    rows = run(plan, tmp_path / "matrix.csv")
    assert [row["outcome"] for row in rows] == ["timed"] * 4
    assert all(row["difference"] < 1e-4 and "OpenVINO" in row["detail"] for row in rows)
