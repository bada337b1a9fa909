"""Our operators as nodes inside ONNX Runtime: equal to the operators, refusals instead of crashes."""

import ctypes

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from _networks import EVERY_LAYER, lively
from _oracle import assert_close, output_size, steps
from ctxvision.data import DataSpec
from ctxvision.export import ExportError, Metadata, export_onnx, open_exported, register_operators
from ctxvision.inference.exported import onnx_reading
from ctxvision.ops import _native, contextual_conv2d, local_aggregation

pytestmark = pytest.mark.skipif(isinstance(_native.load(), str), reason="the kernels were not compiled here")


def model_of(op_type, names, **attributes):
    node = helper.make_node(op_type, names, ["y"], domain="ctxvision", **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ctxvision", 1)]
    return helper.make_model(
        helper.make_graph([node], "one", inputs, outputs), opset_imports=opsets, ir_version=10
    )


def session_of(model, threads=2):
    options = register_operators(onnxruntime.SessionOptions())
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compute(op_type, tensors, threads=2, **attributes):
    """Run one node on tensors; absent ones are None."""
    names = ["" if tensor is None else f"t{n}" for n, tensor in enumerate(tensors)]
    while not names[-1]:
        names.pop()
    session = session_of(model_of(op_type, names, **attributes), threads)
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=False) if name}
    return torch.from_numpy(session.run(None, feed)[0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "size", "geometry"),
    [
        (32, 2, 7, (14, 14), ((1, 1), (3, 3), (1, 1))),
        (24, 8, 3, (9, 11), ((2, 1), (2, 1), (2, 1))),
        (6, 6, 2, (5, 6), ((1, 3), (0, 4), (1, 1))),
        (17, 1, 1, (1, 1), ((1, 1), (0, 0), (1, 1))),
        (40, 40, 3, (1, 7), ((1, 1), (1, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize("grouping", ["blocked", "interleaved"])
def test_local_aggregation(channels, groups, kernel, size, geometry, grouping, threads):
    x = torch.randn(3, channels, *size)
    weight = torch.randn(3, groups, kernel**2, *output_size(size, (kernel, kernel), *geometry))
    stride, padding, dilation = geometry
    expected = local_aggregation(x, weight, stride=stride, padding=padding, dilation=dilation, grouping=grouping)
    found = compute(
        "LocalAggregation", [x, weight], threads, interleaved=int(grouping == "interleaved"), **steps(*geometry)
    )
    assert_close(found, expected, torch.float32)


@pytest.mark.parametrize("optional", ["", "w", "m", "b", "wb", "wmb"])
@pytest.mark.parametrize("channels", [1, 3, 7, 33])
def test_depthwise_contextual_convolution(channels, optional):
    kernel, geometry = (3, 5), ((2, 1), (1, 3), (1, 2))
    rows, columns = output_size((9, 8), kernel, *geometry)
    x, weight = torch.randn(2, channels, 9, 8), torch.randn(channels, 1, *kernel)
    offset = 2 * torch.randn(2, 30, rows, columns)
    tensors = {
        "w": torch.randn(2, channels, *kernel),
        "m": torch.rand(2, 15, rows, columns),
        "b": torch.randn(channels),
    }
    weight_offset, mask, bias = (tensors[name] if name in optional else None for name in "wmb")
    stride, padding, dilation = geometry
    expected = contextual_conv2d(
        x,
        weight,
        offset,
        weight_offset,
        mask,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels,
    )
    found = compute("DepthwiseContextualConv", [x, weight, offset, weight_offset, mask, bias], **steps(*geometry))
    assert_close(found, expected, torch.float32)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(5, 1), (24, 2), (24, 3)])
def test_samples_of_dense_and_grouped_convolution(channels, groups, masked):
    x, weight = torch.randn(2, channels, 6, 7), torch.randn(groups * 2, channels // groups, 3, 3)
    offset, mask = 2 * torch.randn(2, 18, 6, 7), torch.rand(2, 9, 6, 7) if masked else None
    expected = contextual_conv2d(x, weight, offset, mask=mask, padding=1, groups=groups)
    columns = compute(
        "ContextualSamples", [x, offset, mask], kernel=[3, 3], groups=groups, **steps((1, 1), (1, 1), (1, 1))
    )
    assert columns.shape == (groups, 2, 42, 9 * channels // groups)
    kernels = weight.reshape(groups, 2, -1, 9).transpose(2, 3).flatten(2)
    found = torch.einsum("gbpk,gok->bgop", columns, kernels).reshape(expected.shape)
    assert_close(found, expected, torch.float32)


def test_no_images_and_nan_are_as_in_torch():
    weight = torch.randn(1, 2, 9, 4, 4)
    assert compute("LocalAggregation", [torch.randn(0, 4, 4, 4), weight[:0]], padding=[1, 1]).shape == (0, 4, 4, 4)
    weight[0, 0, 0, 0, 0] = torch.nan  # of a tap outside the image
    x = torch.randn(1, 4, 4, 4)
    found = compute("LocalAggregation", [x, weight], padding=[1, 1])
    assert torch.equal(found.isnan(), local_aggregation(x, weight).isnan())
    assert found.isnan().sum() == 2


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "message"),
    [
        ("LocalAggregation", [(1, 4, 5, 5), (1, 2, 8, 5, 5)], {}, "LocalAggregation: x must be"),
        ("LocalAggregation", [(1, 4, 5, 5), (1, 3, 9, 5, 5)], {"padding": [1, 1]}, "LocalAggregation: x must be"),
        ("LocalAggregation", [(1, 4, 5, 5), (2, 2, 9, 5, 5)], {"padding": [1, 1]}, "LocalAggregation: x must be"),
        ("LocalAggregation", [(1, 4, 5, 5), (1, 2, 9, 5, 5)], {"padding": [0, 0]}, "LocalAggregation: x must be"),
        ("LocalAggregation", [(4, 5, 5), (1, 2, 9, 5, 5)], {"padding": [1, 1]}, "LocalAggregation: x must be"),
        ("LocalAggregation", [(1, 4, 5, 5, 1, 1), (1, 2, 9, 5, 5)], {}, "at most five dimensions"),
        ("DepthwiseContextualConv", [(1, 4, 5, 5), (4, 1, 3, 3), (1, 18, 5, 5)], {}, "sampling_offset"),
        ("DepthwiseContextualConv", [(1, 4, 5, 5), (4, 2, 3, 3), (1, 18, 3, 3)], {}, "weight must be"),
        (
            "DepthwiseContextualConv",
            [(1, 4, 5, 5), (4, 1, 3, 3), (1, 18, 3, 3), (1, 4, 3, 2)],
            {},
            "weight_offset",
        ),
        (
            "ContextualSamples",
            [(1, 4, 5, 5), (1, 18, 3, 3)],
            {"kernel": [3, 3], "groups": 3},
            "multiple of groups",
        ),
        ("ContextualSamples", [(1, 4, 5, 5), (1, 18, 3, 3)], {"kernel": [3, 2]}, "sampling_offset"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op_type, shapes, attributes, message):
    tensors = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(Exception, match=message):
        compute(op_type, tensors, **attributes)


@pytest.mark.parametrize(
    "attributes", [{"stride": [0, 1]}, {"padding": [-1, 1]}, {"dilation": [1, 1 << 40]}, {"groups": 0}]
)
def test_attributes_that_no_operator_has_are_refused(attributes):
    with pytest.raises(Exception, match="must be positive"):
        compute(
            "ContextualSamples", [torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 5, 5)], kernel=[3, 3], **attributes
        )


def test_other_dtypes_are_refused():
    model = model_of("LocalAggregation", ["x", "w"])
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(Exception, match=r"(?i)type"):
        session_of(model)


def test_a_runtime_that_is_too_old_is_refused_with_a_reason():
    """The library is called as a runtime would whose table of functions is of another version."""
    said = []
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(
        lambda code, text: said.append(text.decode()) or 1234
    )
    table = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p).value)
    get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
        lambda version: ctypes.addressof(table) if version == 1 else None
    )
    base = (ctypes.c_void_p * 2)(ctypes.cast(get, ctypes.c_void_p).value, None)
    register = ctypes.CDLL(str(_native.load().path)).RegisterCustomOps
    register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]
    assert register(None, ctypes.addressof(base)) == 1234
    assert said == ["ctxvision's operators need ONNX Runtime 1.17 or newer"]


def test_without_kernels_the_reason_is_said(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    onnx.save(model_of("LocalAggregation", ["x", "w"]), path)
    assert onnx_reading.open_session(path).get_inputs()[0].name == "x"
    monkeypatch.setattr(_native, "load", lambda level=None: "no compiler was there")
    with pytest.raises(ExportError, match=r"net\.onnx: onnxruntime cannot compute .* no compiler was there"):
        onnx_reading.open_session(path)


NETWORKS = {
    "rednet_micro": ({}, {"LocalAggregation"}),
    "cotnet_micro": ({}, {"LocalAggregation"}),
    "contextual_convnext_micro": (EVERY_LAYER["contextual_convnext_micro"], {"DepthwiseContextualConv"}),
    "contextual_resnet50": (EVERY_LAYER["contextual_resnet50"], {"ContextualSamples"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_written_with_our_nodes_and_opened_without_trust(name, tmp_path):
    arguments, expected = NETWORKS[name]
    network = lively(name, num_classes=4, **arguments)
    spec = DataSpec(tuple("abcd"), (3, 64, 64), (0.5,) * 3, (0.5,) * 3).to_dict()
    metadata = Metadata(name, "classification", spec, dynamic_batch=True, dynamic_size=False, settings={})
    path = tmp_path / "net.onnx"
    assert export_onnx(network, path, metadata=metadata, operators="native") < 1e-5
    model = onnx.load(path)
    assert {node.op_type for node in model.graph.node if node.domain == "ctxvision"} == expected
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(open_exported(path)(images), network.eval()(images), rtol=1e-3, atol=1e-4)


def test_a_node_that_we_do_not_have_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model_of("SystemCall", ["x"]), path)
    with pytest.raises(ExportError, match="an operator 'SystemCall' that this version does not have"):
        open_exported(path)


def test_calls_of_many_threads_do_not_mix():
    from concurrent.futures import ThreadPoolExecutor

    session = session_of(model_of("LocalAggregation", ["x", "w"], padding=[1, 1]))
    cases = [(torch.randn(1, 8, 9, 9), torch.randn(1, 2, 9, 9, 9)) for _ in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = list(
            pool.map(lambda case: session.run(None, {"x": case[0].numpy(), "w": case[1].numpy()})[0], cases)
        )
    for y, case in zip(found, cases, strict=True):
        np.testing.assert_array_equal(y, local_aggregation(*case).numpy())
