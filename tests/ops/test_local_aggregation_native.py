"""The compiled kernels of local aggregation against plain torch in float64, for every instruction set here."""

import pytest
import torch
from _op_cases import aggregation_case
from hypothesis import given, settings
from hypothesis import strategies as st

from _oracle import assert_close
from ctxvision.ops import _native, local_aggregation, use_backend
from ctxvision.ops.aggregation import cpu, reference

LEVELS = [level for level in ("avx512", "avx2", "baseline") if not isinstance(_native.load(level), str)]
CAPABILITY = torch.backends.cpu.get_cpu_capability()
SLOWER = [level for level in LEVELS if level != "avx512"]
RUNNABLE = {"AVX512": LEVELS, "AVX2": SLOWER}.get(CAPABILITY, ["baseline"])
ORDERS = ["contiguous", "channels_last", "strided"]


@pytest.fixture(params=RUNNABLE)
def level(request, monkeypatch):
    library = _native.load(request.param)
    monkeypatch.setattr(_native, "load", lambda level=None: library)


def in_order(tensor, order):
    """`tensor` with its channels (or groups and taps) first or last in memory, or with gaps."""
    if order == "channels_last":
        back = [0, *range(3, tensor.dim()), 1, 2] if tensor.dim() == 5 else [0, 2, 3, 1]
        dense = tensor.permute(back).contiguous()
        return dense.permute([0, 3, 4, 1, 2] if tensor.dim() == 5 else [0, 3, 1, 2])
    if order == "strided":
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1)[..., 0]
    return tensor


@st.composite
def problems(draw):
    k = draw(st.sampled_from([1, 2, 3, 3, 5, 7, 7]))
    plain = draw(st.booleans())  # the specialised kernels take stride and dilation 1 only
    stride, dilation = ((1, 1), (1, 1)) if plain else draw(st.tuples(*[st.tuples(*[st.integers(1, 3)] * 2)] * 2))
    padding = draw(st.sampled_from([tuple(d * (k - 1) // 2 for d in dilation), (0, 1), (k, k + 1)]))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for d, p in zip(dilation, padding, strict=True)]
    size = tuple(draw(st.integers(n, n + 18)) for n in smallest)
    groups = draw(st.sampled_from([1, 2, 3, 8, 17]))
    channels = groups * draw(st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 33]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    x, weight = aggregation_case(
        draw(st.integers(0, 3)), channels, groups, k, size, stride, padding, dilation, dtype,
        seed=draw(st.integers(0, 99)),
    )  # fmt: skip
    grad = torch.randn(x.shape[0], channels, *weight.shape[3:]).to(dtype)
    image_order, map_order = draw(st.sampled_from(ORDERS)), draw(st.sampled_from(ORDERS))
    tensors = in_order(x, image_order), in_order(weight, map_order), in_order(grad, image_order)
    return tensors, (stride, padding, dilation, draw(st.booleans()))


def results(kernels, x, weight, grad, geometry):
    return [
        kernels.aggregate(x, weight, *geometry),
        kernels.input_grad(grad, weight, x.shape[2:], *geometry),
        kernels.weight_grad(x, grad, *weight.shape[1:3], *geometry),
    ]


@given(problem=problems())
@settings(max_examples=150)
@pytest.mark.parametrize("name", RUNNABLE)
def test_any_problem_equals_plain_torch(name, problem):
    tensors, geometry = problem
    with pytest.MonkeyPatch.context() as patch:
        library = _native.load(name)
        patch.setattr(_native, "load", lambda level=None: library)
        actual = results(cpu, *tensors, geometry)
    expected = results(reference, *(tensor.double() for tensor in tensors), geometry)
    assert_close(actual, expected, tensors[0].dtype)
    assert all(a.stride() == e.stride() for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["blocked", "interleaved"])
@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
def test_any_number_of_threads_computes_the_same_bits(level, order, interleaved, dtype):
    geometry = ((1, 1), (3, 3), (1, 1), interleaved)
    x, weight = aggregation_case(2, 48, 3, 7, (40, 23), dtype=dtype)  # large enough for several bands of rows
    x, weight, grad = in_order(x, order), in_order(weight, order), in_order(x + 1, order)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(cpu, x, weight, grad, geometry)
        torch.set_num_threads(5)
        together = results(cpu, x, weight, grad, geometry)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 7), (9, 30)], ids=str)
def test_every_result_is_written_and_nothing_else_read(level, order, size):
    """Results start as NaN, and so does the memory around the tensors."""
    x, weight = aggregation_case(1, 20, 2, 7, size, dtype=torch.float32)

    def guarded(tensor):
        buffer = torch.full((tensor.numel() + 128,), torch.nan)
        inner = buffer[64:-64].view(tensor.shape)
        return inner.copy_(tensor)

    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        last = order == "channels_last"
        x = guarded(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if last else guarded(x)
        weight = guarded(weight.permute(0, 3, 4, 1, 2)).permute(0, 3, 4, 1, 2) if last else guarded(weight)
        for interleaved in (False, True):
            for tensor in results(cpu, x, weight, x, ((1, 1), (3, 3), (1, 1), interleaved)):
                assert tensor.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.parametrize(
    ("shape", "groups", "padding"),
    [((1, 4, 0, 5), 2, (2, 1)), ((1, 0, 5, 5), 2, (1, 1)), ((0, 4, 5, 5), 2, (1, 1))],
)
def test_nothing_to_add_is_zero(level, shape, groups, padding):
    x = torch.randn(shape)
    out = [n + 2 * p - 2 for n, p in zip(shape[2:], padding, strict=True)]
    weight, grad = torch.randn(shape[0], groups, 9, *out), torch.randn(*shape[:2], *out)
    for result in results(cpu, x, weight, grad, ((1, 1), padding, (1, 1), False)):
        assert not result.any()


def test_nan_and_infinity_spread_as_in_plain_torch(level):
    x, weight = aggregation_case(1, 16, 2, 3, (9, 9), dtype=torch.float32)
    x[0, 3, 4, 4], x[0, 9, 0, 0], weight[0, 0, 5, 2, 2] = torch.nan, torch.inf, -torch.inf
    geometry = ((1, 1), (1, 1), (1, 1), False)
    actual, expected = cpu.aggregate(x, weight, *geometry), reference.aggregate(x, weight, *geometry)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.isinf(), expected.isinf())


def test_bfloat16_is_rounded_once(level):
    """The sum of 49 products is formed in float32: it is the nearest bfloat16 to the exact one."""
    x, weight = aggregation_case(1, 32, 2, 7, (12, 12), dtype=torch.bfloat16)
    geometry = ((1, 1), (3, 3), (1, 1), False)
    exact = reference.aggregate(x.double(), weight.double(), *geometry)
    spacing = torch.finfo(torch.bfloat16).eps * exact.abs().clamp(min=1e-3)
    assert ((cpu.aggregate(x, weight, *geometry).double() - exact).abs() <= 0.5001 * spacing + 1e-5).all()


def test_images_of_different_order_than_their_gradient():
    """What arrives from a sum is one number expanded: the gradients still have the memory format of the input."""
    x, weight = aggregation_case(2, 16, 1, 7, (9, 9), dtype=torch.float32)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight.requires_grad_()
    with use_backend("native"):
        local_aggregation(x, weight).sum().backward()
    with use_backend("torch"):
        expected = torch.autograd.grad(local_aggregation(x.double(), weight.double()).sum(), (x, weight))
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert_close([x.grad, weight.grad], expected, torch.float32)
