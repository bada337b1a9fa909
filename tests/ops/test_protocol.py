"""Both operators in PyTorch: derivatives, autocast, opcheck, meta tensors, compilation, export."""

import itertools

import pytest
import torch
import torch._dynamo.testing
from _battery import (
    AGGREGATIONS,
    CONVOLUTIONS,
    both_layouts,
    each_operator,
    every_operator,
    every_presence,
    laid_out,
)
from _op_cases import ALL, KINDS, NAMES, PLAIN, aggregation_case, contextual_case, on_cpu_in_double
from torch.autograd import gradcheck, gradgradcheck

from _oracle import DEVICES, assert_close, outputs_and_gradients
from ctxvision.ops import contextual_conv2d, keep_operators

OPS = torch.ops.ctxvision
every_device = pytest.mark.parametrize("device", DEVICES)

# ----------------------------------------------------------------------------------------------- derivatives


def differentiable():
    """Cases of finite differences: both groupings in all geometries, and what may be given to a convolution."""
    for k, stride, padding, dilation in ((3, 1, 1, 1), (3, 2, 1, 1), (2, (1, 2), (0, 1), (2, 1)), (1, 2, 0, 1)):
        geometry = {"kernel": (k, k), "size": (3, 4), "stride": stride, "padding": padding, "dilation": dilation}
        for operator in AGGREGATIONS:
            yield pytest.param(operator, geometry, id=f"{operator}-{k}-{stride}")
    geometry = {"kernel": (2, 2), "size": (3, 2), "stride": (2, 1), "padding": (1, 0), "smooth": True}
    presence = {
        "all": ALL, "paper": ALL - {"mask", "bias"}, "dcnv2": ALL - {"weight_offset"},
        "grid": ALL - {"sampling_offset", "mask"},
    }  # fmt: skip
    for operator, (name, present) in itertools.product(CONVOLUTIONS, presence.items()):
        few = (
            {"kind": (2, 2, 2)} if operator.variant == "depthwise" else {}
        )  # all its second derivatives are tried
        yield pytest.param(
            operator, {**geometry, **few, "present": present, "spread": 0.7}, id=f"{operator}-{name}"
        )


@pytest.mark.parametrize(("operator", "case"), list(differentiable()))
def test_first_and_second_derivatives(operator, case):
    tensors, options = operator.case(**case)
    leaves = tuple(None if t is None else t.requires_grad_() for t in tensors)

    def function(*leaves):
        return operator.function(*leaves, **options)

    exact = operator in AGGREGATIONS or operator.variant == "depthwise"
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=not exact)


def subsets():
    """Which gradients are asked for: some but not all; a convolution's bias follows x."""
    for operator in AGGREGATIONS[:1]:
        yield from ((operator, needed) for needed in ((True, False), (False, True)))
    for operator, needed in itertools.product(
        CONVOLUTIONS, list(itertools.product([False, True], repeat=5))[1:-1]
    ):
        yield operator, (*needed, needed[0])


@pytest.mark.parametrize(("operator", "needed"), list(subsets()), ids=str)
def test_any_subset_of_gradients(operator, needed):
    tensors, options = operator.case()
    _, *all_gradients = outputs_and_gradients(operator.function, tensors, **options)
    leaves = [t.clone().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
    y = operator.function(*leaves, **options)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for name, leaf, n, expected in zip(operator.arguments, leaves, needed, all_gradients, strict=True):
        assert (leaf.grad is not None) == n, name
        if n:
            assert_close(leaf.grad, expected, torch.float64, name)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@every_presence
def test_without_gradients(operator, present, mode):
    tensors, options = operator.case(**present)
    expected = operator.function(*tensors, **options)
    with mode():
        y = operator.function(tensors[0].requires_grad_(), *tensors[1:], **options)
    assert not y.requires_grad
    assert torch.equal(y, expected)


# ----------------------------------------------------------------------------------------- autocast and tracing


def mixtures():
    """Which arguments are bfloat16 already, the others being float32."""
    for low in ((), ("x", "weight"), ("x",), ("weight",)):
        yield pytest.param(AGGREGATIONS[0], {"channels": 8}, low, id=f"{AGGREGATIONS[0]}-{'+'.join(low)}")
    presence = {"all": ALL, "grid": ALL - {"sampling_offset", "mask"}, "plain": PLAIN}
    for low in ((), NAMES, ("x",), ("weight", "bias"), ("sampling_offset", "mask")):
        for name, present in presence.items():
            case = {"present": present, "spread": 1.0}
            yield pytest.param(CONVOLUTIONS[0], case, low, id=f"{CONVOLUTIONS[0]}-{name}-{'+'.join(low)}")


@every_device
@pytest.mark.parametrize(("operator", "case", "low"), list(mixtures()))
def test_autocast_computes_in_the_lower_precision(device, operator, case, low):
    tensors, options = operator.case(dtype=torch.bfloat16, device=device, **case)
    leaves = [
        None if t is None else t.to(torch.bfloat16 if name in low else torch.float32).requires_grad_()
        for name, t in zip(operator.arguments, tensors, strict=True)
    ]
    with torch.autocast(device, torch.bfloat16):
        y = operator.function(*leaves, **options)
    assert y.dtype == torch.bfloat16
    grad, given = torch.randn(y.shape).to(y), [t for t in leaves if t is not None]
    gradients = torch.autograd.grad(y, given, grad)
    assert [g.dtype for g in gradients] == [t.dtype for t in given]
    expected = outputs_and_gradients(operator.oracle, on_cpu_in_double(tensors), grad=grad.cpu(), **options)
    assert_close([y, *gradients], expected, torch.bfloat16)


@each_operator
def test_autocast_leaves_float64_alone(operator):
    tensors, options = operator.case()
    with torch.autocast("cpu", torch.bfloat16):
        y = operator.function(*tensors, **options)
    assert y.dtype == torch.float64
    assert_close(y, operator.function(*tensors, **options), torch.float64)


@every_device
@pytest.mark.parametrize("interleaved", [False, True], ids=["blocked", "interleaved"])
def test_opcheck_of_local_aggregation(device, interleaved):
    leaves = [t.requires_grad_() for t in aggregation_case(stride=(2, 1), device=device)]
    torch.library.opcheck(OPS.local_aggregation.default, (*leaves, [2, 1], [1, 1], [1, 1], interleaved))


@pytest.mark.parametrize("interleaved", [False, True], ids=["blocked", "interleaved"])
def test_opcheck_of_its_adjoints(interleaved):
    x, weight = (t.requires_grad_() for t in aggregation_case(size=(3, 4), stride=(2, 1)))
    grad = torch.randn(2, 4, 2, 4, dtype=torch.float64, requires_grad=True)
    geometry = ([2, 1], [1, 1], [1, 1], interleaved)
    torch.library.opcheck(OPS.local_aggregation_input_grad.default, (grad, weight, [3, 4], *geometry))
    torch.library.opcheck(OPS.local_aggregation_weight_grad.default, (x, grad, 2, 9, *geometry))


@every_device
@pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["grouped"]], ids=["depthwise", "grouped"])
@pytest.mark.parametrize("present", [ALL, PLAIN | {"sampling_offset"}], ids=["all", "deformable"])
def test_opcheck_of_contextual_convolution(device, kind, present):
    tensors, _ = contextual_case(kind, stride=(2, 1), smooth=True, present=present, device=device)
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    torch.library.opcheck(OPS.contextual_conv2d.default, (*leaves, [2, 1], [1, 1], [1, 1], kind[2]))


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        (KINDS["depthwise"], (True, True, True, True, True)),
        (KINDS["depthwise"], (False, True, True, False, True)),
        (KINDS["grouped"], (True, False, False, True, False)),
    ],
    ids=str,
)
def test_opcheck_of_its_backward(kind, needs):
    tensors, options = contextual_case(kind, 1, (1, 2), (3, 3), padding=0, smooth=True)
    grad = torch.randn_like(contextual_conv2d(*tensors, **options)).requires_grad_()
    leaves = [t.requires_grad_() for t in tensors[:5]]
    arguments = (grad, *leaves, [1, 1], [0, 0], [1, 1], kind[2], list(needs))
    torch.library.opcheck(OPS.contextual_conv2d_backward.default, arguments)


@both_layouts
@every_presence
def test_meta_tensors_have_the_shapes_dtypes_and_strides_of_real_ones(operator, present, channels_last):
    tensors, options = operator.case(stride=2, dtype=torch.float32, **present)
    tensors[0] = laid_out(tensors[0], channels_last)
    real = outputs_and_gradients(operator.function, tensors, **options)
    leaves = [None if t is None else t.to("meta").requires_grad_() for t in tensors]
    y = operator.function(*leaves, **options)
    meta = [y, *torch.autograd.grad(y, [t for t in leaves if t is not None], y.new_empty(y.shape))]
    for m, r in zip(meta, real, strict=True):
        assert (m.device.type, m.shape, m.dtype) == ("meta", r.shape, r.dtype)
    if "sampling_offset" in present.get("present", ALL):  # elsewhere torch's own convolution computes
        assert [m.stride() for m in meta] == [r.stride() for r in real]


def compilable():
    yield pytest.param(AGGREGATIONS[1], {}, id="interleaved")
    for operator in (CONVOLUTIONS[0], CONVOLUTIONS[1]):
        for name, present in (("all", ALL), ("grid", ALL - {"sampling_offset", "mask"})):
            slow = [pytest.mark.slow] if operator == CONVOLUTIONS[1] else []
            yield pytest.param(operator, {"present": present}, id=f"{operator}-{name}", marks=slow)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("operator", "present"), list(compilable()))
def test_compiled_equals_eager(operator, present, dynamic):
    torch._dynamo.reset()

    def layer(x, weight, *others, **options):
        return operator.function(x.relu(), weight.sigmoid(), *others, **options) * 2

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch, size, stride in [(2, (5, 7), 1), (3, (6, 9), 2), (3, (8, 7), 2)]:
        tensors, options = operator.case(batch, size, stride=stride, **present)
        actual = outputs_and_gradients(compiled, tensors, **options)
        assert_close(actual, outputs_and_gradients(layer, tensors, **options), torch.float64)


@pytest.mark.parametrize("operator", [AGGREGATIONS[0], CONVOLUTIONS[0]], ids=str)
def test_dynamic_sizes_compile_once(operator):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(operator.function, fullgraph=True, backend=counter, dynamic=True)
    for batch, size in [(8, (5, 7)), (10, (6, 9)), (11, (8, 7))]:  # no two equal in the first
        tensors, options = operator.case(batch, size)
        compiled(*tensors, **options)
    assert counter.frame_count == 1


@every_operator
def test_exported_program_keeps_the_operator(operator):
    tensors, options = operator.case(stride=2)

    class Layer(torch.nn.Module):
        def forward(self, *tensors):
            return operator.function(*tensors, **options)

    with keep_operators():
        program = torch.export.export(Layer(), tuple(tensors))
    overload = getattr(OPS, operator.function.__name__).default
    assert any(node.target is overload for node in program.graph.nodes)
    assert_close(program.module()(*tensors), operator.function(*tensors, **options), torch.float64)
