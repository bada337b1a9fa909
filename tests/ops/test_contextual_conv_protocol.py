"""`contextual_conv2d` in PyTorch: derivatives, empty batches, autocast, opcheck, meta, compile, export."""

import itertools

import pytest
import torch
import torch._dynamo.testing
from _op_cases import (
    ALL,
    KINDS,
    NAMES,
    PLAIN,
    contextual_case,
    every_kind,
    every_subset,
    on_cpu_in_double,
)
from torch.autograd import gradcheck, gradgradcheck

from _oracle import (
    DEVICES,
    assert_close,
    contextual_conv2d_torchvision,
    outputs_and_gradients,
)
from ctxvision.ops import contextual_conv2d

# ----------------------------------------------------------------------------------------------- derivatives


@every_kind
@pytest.mark.parametrize(
    "present", [ALL, ALL - {"mask", "bias"}, ALL - {"weight_offset"}, ALL - {"offset", "mask"}],
    ids=["all", "paper", "dcnv2", "grid"],
)  # fmt: skip
def test_first_and_second_derivatives(kind, present):
    tensors, options = contextual_case(
        kind, 2, (2, 2), (3, 2), (2, 1), (1, 0), present=present, spread=0.7, smooth=True
    )
    leaves = tuple(None if t is None else t.requires_grad_() for t in tensors)

    def function(*leaves):
        return contextual_conv2d(*leaves, **options)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=kind != KINDS["depthwise"])


@every_kind
@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=5))[1:-1], ids=str)
def test_any_subset_of_gradients(kind, needed):
    needed = (*needed, needed[0])
    tensors, options = contextual_case(kind)
    _, *all_gradients = outputs_and_gradients(contextual_conv2d, tensors, **options)
    leaves = [t.clone().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
    y = contextual_conv2d(*leaves, **options)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for name, leaf, n, expected in zip(NAMES, leaves, needed, all_gradients, strict=True):
        assert (leaf.grad is not None) == n, name
        if n:
            assert_close(leaf.grad, expected, torch.float64, name)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}], ids=["all", "grid"])
def test_without_gradients(mode, present):
    tensors, options = contextual_case(present=present)
    expected = contextual_conv2d(*tensors, **options)
    with mode():
        y = contextual_conv2d(tensors[0].requires_grad_(), *tensors[1:], **options)
    assert not y.requires_grad
    assert torch.equal(y, expected)


@every_kind
def test_repeated_calls_are_identical(kind):
    tensors, options = contextual_case(kind, 3, size=(9, 9), dtype=torch.float32)
    first, second = (outputs_and_gradients(contextual_conv2d, tensors, **options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------------------------- empty, autocast, tracing


@pytest.mark.parametrize("device", DEVICES)
@every_kind
@every_subset
def test_empty_batch(device, kind, present):
    tensors, options = contextual_case(kind, batch=0, stride=2, present=present, device=device)
    y, *gradients = outputs_and_gradients(contextual_conv2d, tensors, **options)
    given_tensors = [t for t in tensors if t is not None]
    assert y.shape == (0, kind[1], 3, 3)
    assert [g.shape for g in gradients] == [t.shape for t in given_tensors]
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}, PLAIN], ids=["all", "grid", "plain"])
@pytest.mark.parametrize("low", [(), NAMES, ("x",), ("weight", "bias"), ("offset", "mask")], ids="+".join)
def test_autocast_computes_in_the_lower_precision(device, present, low):
    tensors, options = contextual_case((4, 4, 4), present=present, spread=1.0, dtype=torch.bfloat16, device=device)
    leaves = [
        None if t is None else t.to(torch.bfloat16 if n in low else torch.float32).requires_grad_()
        for n, t in zip(NAMES, tensors, strict=True)
    ]
    with torch.autocast(device, torch.bfloat16):
        y = contextual_conv2d(*leaves, **options)
    assert y.dtype == torch.bfloat16
    grad = torch.randn(y.shape).to(y)
    given_leaves = [t for t in leaves if t is not None]
    gradients = torch.autograd.grad(y, given_leaves, grad)
    assert [g.dtype for g in gradients] == [t.dtype for t in given_leaves]
    expected = outputs_and_gradients(
        contextual_conv2d_torchvision, on_cpu_in_double(tensors), grad=grad.cpu(), **options
    )
    assert_close([y, *gradients], expected, torch.bfloat16)


def test_autocast_leaves_float64_alone():
    tensors, options = contextual_case()
    with torch.autocast("cpu", torch.bfloat16):
        y = contextual_conv2d(*tensors, **options)
    assert y.dtype == torch.float64
    assert_close(y, contextual_conv2d(*tensors, **options), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["grouped"]], ids=["depthwise", "grouped"])
@pytest.mark.parametrize("present", [ALL, PLAIN | {"offset"}], ids=["all", "deformable"])
def test_opcheck(device, kind, present):
    tensors, _ = contextual_case(kind, stride=(2, 1), smooth=True, present=present, device=device)
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    geometry = ([2, 1], [1, 1], [1, 1], kind[2])
    torch.library.opcheck(torch.ops.ctxvision.contextual_conv2d.default, (*leaves, *geometry))


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        (KINDS["depthwise"], (True, True, True, True, True)),
        (KINDS["depthwise"], (False, True, True, False, True)),
        (KINDS["grouped"], (True, False, False, True, False)),
    ],
    ids=str,
)
def test_opcheck_of_the_backward(kind, needs):
    tensors, options = contextual_case(kind, 1, (1, 2), (3, 3), padding=0, smooth=True)
    grad = torch.randn_like(contextual_conv2d(*tensors, **options)).requires_grad_()
    leaves = [t.requires_grad_() for t in tensors[:5]]
    arguments = (grad, *leaves, [1, 1], [0, 0], [1, 1], kind[2], list(needs))
    torch.library.opcheck(torch.ops.ctxvision.contextual_conv2d_backward.default, arguments)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@every_kind
@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}, PLAIN], ids=["all", "grid", "plain"])
def test_meta_tensors_have_the_shapes_dtypes_and_strides_of_real_ones(kind, present, channels_last):
    tensors, options = contextual_case(kind, stride=2, present=present, dtype=torch.float32)
    if channels_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    real = outputs_and_gradients(contextual_conv2d, tensors, **options)
    leaves = [None if t is None else t.to("meta").requires_grad_() for t in tensors]
    y = contextual_conv2d(*leaves, **options)
    given_leaves = [t for t in leaves if t is not None]
    meta = [y, *torch.autograd.grad(y, given_leaves, y.new_empty(y.shape))]
    for m, r in zip(meta, real, strict=True):
        assert (m.device.type, m.shape, m.dtype) == ("meta", r.shape, r.dtype)
    if "offset" in present:
        assert [m.stride() for m in meta] == [r.stride() for r in real]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}], ids=["all", "grid"])
@pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["dense"]], ids=["depthwise", "dense"])
def test_compiled_equals_eager(dynamic, present, kind):
    torch._dynamo.reset()

    def layer(x, *others, **options):
        return contextual_conv2d(x.relu(), *others, **options) * 2

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch, size, stride in [(2, (5, 7), 1), (3, (6, 9), 2), (3, (8, 7), 2)]:
        tensors, options = contextual_case(kind, batch, size=size, stride=stride, present=present)
        actual = outputs_and_gradients(compiled, tensors, **options)
        assert_close(actual, outputs_and_gradients(layer, tensors, **options), torch.float64)


def test_dynamic_sizes_compile_once():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(contextual_conv2d, fullgraph=True, backend=counter, dynamic=True)
    for batch, size in [(8, (5, 7)), (10, (6, 9)), (11, (8, 7))]:  # no two equal in the first
        tensors, options = contextual_case(batch=batch, size=size)
        compiled(*tensors, **options)
    assert counter.frame_count == 1


def test_exported_program_keeps_the_operator():
    tensors, options = contextual_case()

    class Layer(torch.nn.Module):
        def forward(self, *tensors):
            return contextual_conv2d(*tensors, **options)

    program = torch.export.export(Layer(), tuple(tensors))
    assert any(node.target is torch.ops.ctxvision.contextual_conv2d.default for node in program.graph.nodes)
    assert_close(program.module()(*tensors), contextual_conv2d(*tensors, **options), torch.float64)
