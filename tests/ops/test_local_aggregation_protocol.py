"""`local_aggregation` in PyTorch: derivatives, empty batches, autocast, opcheck, meta, compile, export."""

import itertools

import pytest
import torch
import torch._dynamo.testing
from _op_cases import (
    GROUPINGS,
    aggregation_case,
)
from torch.autograd import gradcheck, gradgradcheck

from _oracle import (
    DEVICES,
    assert_close,
    local_aggregation_unfold,
    outputs_and_gradients,
)
from ctxvision.ops import local_aggregation

# ----------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize(
    ("k", "stride", "padding", "dilation"),
    [(3, 1, None, 1), (3, 2, None, 1), (2, (1, 2), (0, 1), (2, 1)), (1, 2, 0, 1)],
)
def test_first_and_second_derivatives(grouping, k, stride, padding, dilation):
    tensors = aggregation_case(2, 4, 2, k, (3, 4), stride, padding, dilation)
    for t in tensors:
        t.requires_grad_()

    def function(x, weight):
        return local_aggregation(x, weight, stride=stride, padding=padding, dilation=dilation, grouping=grouping)

    assert gradcheck(function, tensors)
    assert gradgradcheck(function, tensors)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_each_gradient_alone(needed):
    tensors = aggregation_case()
    both = outputs_and_gradients(local_aggregation, tensors)[1:]
    leaves = [t.clone().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
    y = local_aggregation(*leaves)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for leaf, n, expected in zip(leaves, needed, both, strict=True):
        assert (leaf.grad is not None) == n
        if n:
            assert_close(leaf.grad, expected, torch.float64)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    x, weight = aggregation_case()
    expected = local_aggregation(x, weight)
    with mode():
        y = local_aggregation(x.requires_grad_(), weight)
    assert not y.requires_grad
    assert torch.equal(y, expected)


def test_repeated_calls_are_identical():
    tensors = aggregation_case(4, 32, 2, 7, (9, 9), dtype=torch.float32)
    first, second = (outputs_and_gradients(local_aggregation, tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------------------------- empty, autocast, tracing


@pytest.mark.parametrize("device", DEVICES)
def test_empty_batch(device):
    x, weight = aggregation_case(batch=0, stride=2, device=device)
    y, grad_x, grad_weight = outputs_and_gradients(local_aggregation, [x, weight], stride=2)
    assert y.shape == (0, 4, 3, 4)
    assert grad_x.shape == x.shape
    assert grad_weight.shape == weight.shape


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtypes",
    list(itertools.product([torch.float32, torch.bfloat16], repeat=2)),
    ids=lambda pair: f"{pair[0]}-{pair[1]}",
)
def test_autocast_computes_in_the_lower_precision(device, dtypes):
    x, weight = (
        t.bfloat16().to(d) for t, d in zip(aggregation_case(channels=8, device=device), dtypes, strict=True)
    )
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    with torch.autocast(device, torch.bfloat16):
        y = local_aggregation(*leaves)
    assert y.dtype == torch.bfloat16
    grad = torch.randn_like(y)
    gradients = torch.autograd.grad(y, leaves, grad)
    assert [g.dtype for g in gradients] == list(dtypes)
    oracle = [t.detach().double().cpu().requires_grad_() for t in leaves]
    expected = local_aggregation_unfold(*oracle)
    assert_close(y, expected, torch.bfloat16)
    assert_close(gradients, torch.autograd.grad(expected, oracle, grad.double().cpu()), torch.bfloat16)


def test_autocast_leaves_float64_alone():
    x, weight = aggregation_case()
    with torch.autocast("cpu", torch.bfloat16):
        y = local_aggregation(x, weight)
    assert y.dtype == torch.float64
    assert_close(y, local_aggregation(x, weight), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("interleaved", [False, True], ids=["blocked", "interleaved"])
def test_opcheck(device, interleaved):
    x, weight = aggregation_case(stride=(2, 1), device=device)
    geometry = ([2, 1], [1, 1], [1, 1], interleaved)
    leaves = x.requires_grad_(), weight.requires_grad_()
    torch.library.opcheck(torch.ops.ctxvision.local_aggregation.default, (*leaves, *geometry))


@pytest.mark.parametrize("interleaved", [False, True], ids=["blocked", "interleaved"])
def test_opcheck_of_the_adjoints(interleaved):
    x, weight = (t.requires_grad_() for t in aggregation_case(size=(3, 4), stride=(2, 1)))
    grad = torch.randn(2, 4, 2, 4, dtype=torch.float64, requires_grad=True)
    geometry = ([2, 1], [1, 1], [1, 1], interleaved)
    ops = torch.ops.ctxvision
    torch.library.opcheck(ops.local_aggregation_input_grad.default, (grad, weight, [3, 4], *geometry))
    torch.library.opcheck(ops.local_aggregation_weight_grad.default, (x, grad, 2, 9, *geometry))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_meta_tensors_have_the_shapes_dtypes_and_strides_of_real_ones(channels_last):
    x, weight = aggregation_case(stride=2, dtype=torch.float32)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    real = outputs_and_gradients(local_aggregation, [x, weight], stride=2)
    leaves = [t.to("meta").requires_grad_() for t in (x, weight)]
    y = local_aggregation(*leaves, stride=2)
    meta = [y, *torch.autograd.grad(y, leaves, y.new_empty(y.shape))]
    for m, r in zip(meta, real, strict=True):
        assert (m.device.type, m.shape, m.dtype) == ("meta", r.shape, r.dtype)
        assert m.stride() == r.stride()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_equals_eager(dynamic):
    torch._dynamo.reset()

    def layer(x, weight, stride):
        return local_aggregation(x.relu(), weight.sigmoid(), stride=stride, grouping="interleaved") * 2

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size, stride in [((5, 7), 1), ((6, 9), 2), ((7, 8), 2)]:
        tensors = aggregation_case(size=size, stride=stride)
        actual = outputs_and_gradients(compiled, tensors, stride=stride)
        assert_close(actual, outputs_and_gradients(layer, tensors, stride=stride), torch.float64)


def test_dynamic_sizes_compile_once():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(local_aggregation, fullgraph=True, backend=counter, dynamic=True)
    for batch, size in [(3, (5, 7)), (6, (6, 9)), (8, (8, 7))]:  # no two equal in the first
        compiled(*aggregation_case(batch, size=size))
    assert counter.frame_count == 1


def test_exported_program_keeps_the_operator():
    class Layer(torch.nn.Module):
        def forward(self, x, weight):
            return local_aggregation(x, weight, stride=2)

    x, weight = aggregation_case(stride=2)
    program = torch.export.export(Layer(), (x, weight))
    assert any(node.target is torch.ops.ctxvision.local_aggregation.default for node in program.graph.nodes)
    assert_close(program.module()(x, weight), local_aggregation(x, weight, stride=2), torch.float64)
