"""Nodes of our operators, replaced by standard ones: equal to the operators, for known and for free sizes."""

import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from _oracle import assert_close, output_size, steps
from ctxvision.export.standard_nodes import expand
from ctxvision.ops import contextual_conv2d, local_aggregation


def compute(op_type, tensors, free, **attributes):
    """Run what stands for one node; of inputs with four axes or more, those of `free` have no known length."""
    names = ["" if tensor is None else f"t{n}" for n, tensor in enumerate(tensors)]
    while not names[-1]:
        names.pop()
    inputs = []
    for name, tensor in zip(names, tensors, strict=False):
        if name:
            activation = (
                tensor.dim() == 5
                or (tensor.dim() == 4 and name not in ("t1",))
                or op_type != "DepthwiseContextualConv"
            )
            axes = (0, tensor.dim() - 2, tensor.dim() - 1) if free else (0,)
            sizes = [f"{name}_{n}" if activation and n in axes else size for n, size in enumerate(tensor.shape)]
            if name == "t3":  # offsets of the kernel: their number is that of the images, their size the kernel's
                sizes[2:] = tensor.shape[2:]
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    node = helper.make_node(op_type, names, ["y"], name="one", domain="ctxvision", **attributes)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*"abcd"])]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ctxvision", 1)]
    model = onnx_ir.serde.deserialize_model(
        helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets, ir_version=10)
    )
    expand(model)
    proto = onnx_ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {its.domain for its in proto.graph.node} == {""}
    assert [its.domain for its in proto.opset_import] == [""]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=False) if name}
    return torch.from_numpy(session.run(None, feed)[0])


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("grouping", ["blocked", "interleaved"])
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "size", "geometry"),
    [
        (8, 2, 7, (9, 14), ((1, 1), (3, 3), (1, 1))),  # banded where its width is known
        (12, 4, 5, (9, 11), ((2, 1), (2, 1), (2, 1))),
        (6, 2, 5, (9, 12), ((1, 2), (0, 4), (1, 2))),  # banded, with gaps between the taps
        (6, 3, 7, (5, 40), ((1, 1), (3, 3), (1, 1))),
        (6, 6, 2, (5, 6), ((1, 3), (0, 4), (1, 1))),
        (5, 1, 1, (1, 1), ((1, 1), (0, 0), (1, 1))),
        (4, 2, 5, (12, 40), ((1, 2), (1, 2), (2, 3))),  # fewer rows than the image has
        (4, 2, 7, (2, 30), ((1, 1), (3, 3), (1, 1))),  # rows of the kernel that read nothing
        (4, 2, 4, (1, 60), ((1, 1), (5, 3), (3, 3))),  # all of them
    ],
)
def test_local_aggregation(channels, groups, kernel, size, geometry, grouping, free):
    x = torch.randn(3, channels, *size)
    weight = torch.randn(3, groups, kernel**2, *output_size(size, (kernel, kernel), *geometry))
    stride, padding, dilation = geometry
    expected = local_aggregation(x, weight, stride=stride, padding=padding, dilation=dilation, grouping=grouping)
    interleaved = int(grouping == "interleaved")
    found = compute("LocalAggregation", [x, weight], free, interleaved=interleaved, **steps(*geometry))
    assert_close(found, expected, torch.float32)


def bent(channels, kernel, size, geometry, optional):
    """Return offsets beyond the image and what else may be given."""
    taps = kernel[0] * kernel[1]
    space = output_size(size, kernel, *geometry)
    offset = 3 * torch.randn(2, 2 * taps, *space)
    tensors = {
        "w": torch.randn(2, channels, *kernel),
        "m": torch.rand(2, taps, *space),
        "b": torch.randn(channels),
    }
    return offset, *(tensors[name] if name in optional else None for name in "wmb")


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("optional", ["", "m", "wb", "wmb"])
def test_depthwise_contextual_convolution(optional, free):
    kernel, size, geometry = (3, 5), (9, 8), ((2, 1), (1, 3), (1, 2))
    x, weight = torch.randn(2, 7, *size), torch.randn(7, 1, *kernel)
    given = bent(7, kernel, size, geometry, optional)
    options = dict(zip(("stride", "padding", "dilation"), geometry, strict=True))
    expected = contextual_conv2d(x, weight, *given, **options, groups=7)
    found = compute("DepthwiseContextualConv", [x, weight, *given], free, **steps(*geometry))
    assert_close(found, expected, torch.float32)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(("groups", "optional"), [(1, ""), (3, ""), (3, "m")])
def test_samples_of_dense_and_grouped_convolution(groups, optional, free):
    size, geometry = (6, 7), ((1, 1), (1, 1), (1, 1))
    x, weight = torch.randn(2, 6, *size), torch.randn(groups * 2, 6 // groups, 3, 3)
    offset, _, mask, _ = bent(6, (3, 3), size, geometry, optional)
    expected = contextual_conv2d(x, weight, offset, mask=mask, padding=1, groups=groups)
    columns = compute(
        "ContextualSamples", [x, offset, mask], free, kernel=[3, 3], groups=groups, **steps(*geometry)
    )
    assert columns.shape == (groups, 2, 42, 9 * 6 // groups)
    kernels = weight.reshape(groups, 2, -1, 9).transpose(2, 3).flatten(2)
    found = torch.einsum("gbpk,gok->bgop", columns, kernels).reshape(expected.shape)
    assert_close(found, expected, torch.float32)


def test_offsets_that_are_no_numbers_read_nothing_else():
    x, weight, offset = torch.randn(1, 3, 5, 5), torch.randn(3, 1, 3, 3), torch.zeros(1, 18, 5, 5)
    offset[0, 0, 0, 0], offset[0, 1, 2, 2] = torch.inf, torch.nan
    expected = contextual_conv2d(x, weight, offset, padding=1, groups=3)
    found = compute("DepthwiseContextualConv", [x, weight, offset], False, **steps((1, 1), (1, 1), (1, 1)))
    good = expected.isfinite()
    assert_close(found[good], expected[good], torch.float32)
    assert torch.equal(found.isfinite(), good)
