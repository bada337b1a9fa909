"""Layers and networks in other people's recorders: torch.export, ONNX, TorchScript, torch.fx, torch.compile."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from _networks import EVERY_LAYER, lively
from ctxvision.export import ExportError
from ctxvision.export.program import trace
from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d
from ctxvision.ops import contextual_conv2d, keep_operators, local_aggregation


def offsets(layer):
    for name, parameter in layer.named_parameters():
        if "_offsets" in name:
            nn.init.normal_(parameter, std=0.1)
    return layer.eval()


LAYERS = {
    "involution": lambda: Involution2d(8, kernel_size=3, stride=2, group_channels=4, reduction=2).eval(),
    "involution, large": lambda: Involution2d(8, kernel_size=5, group_channels=4, reduction=2).eval(),
    "cot": lambda: CoTLayer(16).eval(),
    "cot, groups": lambda: CoTLayer(16, groups=2, dilation=2).eval(),
    "contextual": lambda: offsets(
        ContextualConv2d(8, 8, kernel_size=3, padding=1, groups=8, prior_dim=0, weight_hidden=4, modulation=True)
    ),
    "contextual, dense": lambda: offsets(
        ContextualConv2d(8, 6, kernel_size=3, stride=2, padding=1, groups=2, prior_dim=0, weight_hidden=4)
    ),
    "contextual, regular": lambda: offsets(
        ContextualConv2d(8, 6, kernel_size=3, padding=1, groups=2, prior_dim=0, weight_hidden=4, sampling=False)
    ),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def images(kind, *shape):
    torch.manual_seed(1)
    return torch.randn(shape[0], 16 if kind.startswith("cot") else 8, *shape[1:])


def ours(graph):
    return [str(node.target) for node in graph.nodes if "ctxvision" in str(node.target)]


def close(found, expected):
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-5)


@every_layer
def test_exported_program(kind):
    layer, x = LAYERS[kind](), images(kind, 2, 9, 8)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert not ours(program.graph)
    other = images(kind, 3, 9, 8)
    close(program.module()(other), layer(other))
    with keep_operators():
        kept = torch.export.export(layer, (x,))
    assert ("regular" in kind) == (not ours(kept.graph))
    close(kept.module()(x), layer(x))


@every_layer
def test_torchscript_for_another_batch_and_size(kind):
    layer = LAYERS[kind]()  # with gradients, as long as nobody says otherwise
    traced = torch.jit.trace(layer, images(kind, 2, 9, 8))
    assert not [node.kind() for node in traced.inlined_graph.nodes() if node.kind().startswith("ctxvision")]
    other = images(kind, 3, 12, 11)
    close(traced(other), layer(other))


@every_layer
def test_onnx_without_dynamo(kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    layer, file = LAYERS[kind](), io.BytesIO()
    torch.onnx.export(
        layer, (images(kind, 2, 9, 8),), file, dynamo=False, opset_version=17, input_names=["x"],
        dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue())
    other = images(kind, 3, 12, 11)
    close(torch.from_numpy(session.run(None, {"x": other.numpy()})[0]), layer(other))


@pytest.mark.slow
@every_layer
def test_onnx_with_dynamo(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    layer, x = LAYERS[kind](), images(kind, 2, 9, 8)
    torch.onnx.export(
        layer, (x,), tmp_path / "net.onnx", dynamo=True, input_names=["x"], verbose=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    other = images(kind, 3, 9, 8)
    close(torch.from_numpy(session.run(None, {"x": other.numpy()})[0]), layer(other))


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_symbolic_trace_and_features(name):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    network, x = lively(name, num_classes=6, **EVERY_LAYER[name]), torch.randn(2, 3, 32, 32)
    graph = torch.fx.symbolic_trace(network)
    called = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert called & {local_aggregation, contextual_conv2d}
    close(graph(x), network(x))
    # what a contextual network's loss reads besides comes after the logits; in training it makes them otherwise
    training, last = (
        next(name for name in reversed(names) if "temperature" not in name)
        for names in get_graph_node_names(network)
    )
    extractor = create_feature_extractor(network, train_return_nodes=[training], eval_return_nodes=[last])
    close(extractor(x)[last], network(x))


def test_fx_quantisation():
    quantization = pytest.importorskip("torch.ao.quantization")
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.manual_seed(0)
    net, x = nn.Sequential(CoTLayer(16), Involution2d(16)).eval(), torch.randn(2, 16, 8, 8)
    prepared = prepare_fx(net, quantization.get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    found, expected = convert_fx(prepared)(x), net(x)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.2 * expected.abs().max()


def test_compiled_code_keeps_the_operators():
    seen = []

    def backend(module, example):
        seen.extend(ours(module.graph))
        return module

    x, net = torch.randn(2, 16, 8, 8), nn.Sequential(CoTLayer(16), Involution2d(16)).eval()
    close(torch.compile(net, backend=backend, fullgraph=True)(x), net(x))
    assert len(seen) == 2


@pytest.mark.parametrize("layer", [Involution2d(16), nn.Sequential(CoTLayer(16))])
def test_script_is_refused_in_one_line(layer):
    with pytest.raises(RuntimeError) as raised:
        torch.jit.script(layer)
    assert "\n" not in str(raised.value)
    assert "torch.jit.trace" in str(raised.value)


@pytest.mark.process
def test_traced_file_needs_nothing_of_ours(tmp_path):
    layer, x = nn.Sequential(CoTLayer(16), Involution2d(16)).eval(), torch.randn(2, 16, 8, 8)
    torch.jit.trace(layer, x).save(tmp_path / "net.pt")
    torch.save((x, layer(x).detach()), tmp_path / "values.pt")
    code = (
        "import sys, torch; x, y = torch.load('values.pt'); net = torch.jit.load('net.pt');"
        "torch.testing.assert_close(net(x).detach(), y, rtol=1e-4, atol=1e-5);"
        "assert 'ctxvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)


@pytest.mark.parametrize("form", ["standard", "onnx nodes"])
def test_an_operator_that_was_called_past_its_function_is_not_left_in_a_graph(form):
    """`torch.ops` has no other form: such a graph would run nowhere else."""

    class Direct(torch.nn.Module):
        def forward(self, x):
            weight = x.new_ones(x.shape[0], 1, 9, *x.shape[2:])
            return torch.ops.ctxvision.local_aggregation(x, weight, [1, 1], [1, 1], [1, 1], False)

    with pytest.raises(ExportError, match=r"still holds ctxvision\.local_aggregation\.default"):
        trace(Direct(), (torch.randn(2, 4, 8, 8),), ({},), operators=form)
    kept = trace(Direct(), (torch.randn(2, 4, 8, 8),), ({},), operators="operators")
    assert "ctxvision" in str(kept.graph)
