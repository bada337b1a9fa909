"""The compiled kernels of contextual convolution against plain torch in float64, for each instruction set here."""

from contextlib import contextmanager

import pytest
import torch
from _op_cases import KINDS, NAMES, PLAIN, contextual_case, every_kind
from hypothesis import given, settings
from hypothesis import strategies as st

from _oracle import TOLERANCE, assert_close, in_nan_buffer, layouts, output_size
from ctxvision.ops import _native, contextual_conv2d
from ctxvision.ops._geometry import empty_like_layout
from ctxvision.ops.contextual_conv import cpu, reference

LEVELS = [level for level in ("avx512", "avx2", "baseline") if not isinstance(_native.load(level), str)]
CAPABILITY = torch.backends.cpu.get_cpu_capability()
RUNNABLE = {"AVX512": LEVELS, "AVX2": [level for level in LEVELS if level != "avx512"]}.get(
    CAPABILITY, ["baseline"]
)
EVERY_GRADIENT = (True,) * 5
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@contextmanager
def instructions(level):
    library = _native.load(level)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "load", lambda level=None: library)
        yield


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def uninitialised_is_nan():
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture(params=RUNNABLE)
def level(request):
    with instructions(request.param):
        yield


@pytest.fixture(params=[1, 50, 1 << 19], ids=["short-chunks", "chunks", "whole"])
def column_floats(request, monkeypatch):
    """How many samples of a dense kernel are in memory at once; in units of a position, or all."""
    monkeypatch.setattr(cpu, "COLUMN_FLOATS", request.param * 9 * 4)


def in_layout(tensor, layout):
    """The same values behind other strides."""
    return tensor if tensor is None or layout == "contiguous" else dict(layouts(tensor))[layout]


def case(*args, whole_steps=64, **options):
    """Six tensors, the geometry and a gradient. Positions are exact in float32, so that borders are met."""
    tensors, geometry = contextual_case(*args, **options)
    if tensors[2] is not None:
        tensors[2] = (tensors[2] * whole_steps).round() / whole_steps
    stride, padding, dilation = (
        (value, value) if isinstance(value, int) else value
        for value in (geometry["stride"], geometry["padding"], geometry["dilation"])
    )
    size, kernel = tensors[0].shape[2:], tensors[1].shape[2:]
    shape = (tensors[0].shape[0], tensors[1].shape[0], *output_size(size, kernel, stride, padding, dilation))
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(tensors[0].dtype)
    return tensors, (stride, padding, dilation, geometry["groups"]), grad


def results(kernels, tensors, geometry, grad, needs=EVERY_GRADIENT):
    """The output, and the gradients of x, weight, offset, weight_offset, mask, empty where not needed."""
    return [
        kernels.contextual_conv(*tensors, *geometry),
        *kernels.backward(grad, *tensors[:5], *geometry, needs),
    ]


def expected_results(tensors, geometry, grad, needs=EVERY_GRADIENT):
    doubles = [None if t is None else t.double() for t in tensors]
    return results(reference, doubles, geometry, grad.double(), needs)


def assert_same(actual, expected, dtype):
    """As `assert_close`, where NaN is a value and stands in the same places."""
    for name, a, e in zip(("y", *NAMES[:5]), actual, expected, strict=True):
        assert a.dtype == dtype, name
        assert torch.equal(a.isnan(), e.isnan()), name
        assert_close(a.nan_to_num(nan=0), e.nan_to_num(nan=0), dtype, name)


# ---------------------------------------------------------------------------------------------------- values


@st.composite
def problems(draw):
    pairs = st.tuples(*[st.integers(1, 3)] * 2)
    kernel, stride, dilation = draw(st.tuples(*[st.integers(1, 7)] * 2)), draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(draw(st.integers(n, n + 9)) for n in smallest)
    groups = draw(st.sampled_from([1, 2, 3, 5]))
    kind = draw(
        st.one_of(
            st.sampled_from([1, 3, 15, 16, 17, 32, 40, 70, 100, 160]).map(lambda c: (c, c, c)),
            st.tuples(st.sampled_from([1, 2, 3, 16, 17]), st.integers(1, 3)).map(
                lambda cm: (groups * cm[0], groups * cm[1], groups)
            ),
        )
    )
    present = PLAIN | {"offset"} | draw(st.frozensets(st.sampled_from(NAMES[3:])))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    tensors, geometry, grad = case(
        kind,
        draw(st.integers(0, 3)),
        kernel,
        size,
        stride,
        padding,
        dilation,
        present,
        spread=draw(st.sampled_from([0.0, 0.5, 3.0, 1e4])),
        dtype=dtype,
        seed=draw(st.integers(0, 99)),
    )
    orders = st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"])
    tensors = [t if t is None or t.dim() == 1 else in_layout(t, draw(orders)) for t in tensors]
    grad = draw(st.sampled_from([in_layout(grad, draw(orders)), grad[:, :1, :1, :1].expand(grad.shape)]))
    return tensors, geometry, grad, draw(st.tuples(*[st.booleans()] * 5))


@pytest.mark.parametrize("name", RUNNABLE)
@given(problem=problems())
@settings(max_examples=100)
def test_any_problem_equals_plain_torch(name, problem):
    tensors, geometry, grad, needs = problem
    with instructions(name), uninitialised_is_nan():
        actual = results(cpu, tensors, geometry, grad, needs)
    expected = expected_results(tensors, geometry, grad, needs)
    assert_same(actual, expected, tensors[0].dtype)
    assert actual[0].stride() == empty_like_layout(tensors[0], actual[0].shape).stride()


@both_dtypes
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset_layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(14, 14), (7, 7), (5, 17)], ids=str)
def test_network_shapes(level, dtype, layout, offset_layout, size):
    tensors, geometry, grad = case((96, 96, 96), 2, (7, 7), size, 1, 3, spread=1.0, dtype=dtype)
    tensors[0], grad = in_layout(tensors[0], layout), in_layout(grad, layout)
    tensors[2], tensors[4] = in_layout(tensors[2], offset_layout), in_layout(tensors[4], offset_layout)
    assert_same(results(cpu, tensors, geometry, grad), expected_results(tensors, geometry, grad), dtype)


@both_dtypes
@pytest.mark.parametrize("kind", [(12, 20, 1), (32, 16, 1), (12, 24, 4), (32, 32, 2), (5, 15, 5)], ids=str)
def test_samples_of_dense_kernels_in_pieces(level, column_floats, kind, dtype):
    tensors, geometry, grad = case(kind, 3, (3, 3), (9, 8), 1, 1, spread=1.0, dtype=dtype)
    assert_same(results(cpu, tensors, geometry, grad), expected_results(tensors, geometry, grad), dtype)


@pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["dense"]], ids=["depthwise", "dense"])
def test_sums_over_many_positions_stay_accurate(kind):
    # equal summands, so that a plain running sum would always round to the same side
    tensors, geometry, grad = case(kind, 1, (1, 2), (260, 250), 1, 0, spread=0.0, dtype=torch.float32)
    tensors[0], tensors[4], grad = (torch.full_like(t, 1.1) for t in (tensors[0], tensors[4], grad))
    needs = (False, True, False, True, False)
    expected = expected_results(tensors, geometry, grad, needs)
    assert expected[2].abs().min() > 5e4
    assert_same(results(cpu, tensors, geometry, grad, needs), expected, torch.float32)


# ---------------------------------------------------------------------------------------- where samples fall


@every_kind
@both_dtypes
def test_offsets_that_are_no_distance(level, kind, dtype):
    tensors, geometry, grad = case(kind, dtype=dtype)
    for column, bad in enumerate([torch.nan, torch.inf, -torch.inf, 3e38, -1e19]):
        tensors[2][0, 0, 2, column] = tensors[2][1, 7, 4, column] = bad  # vertical, horizontal, both
        tensors[2][1, 2:4, 1, column] = bad
    assert_same(results(cpu, tensors, geometry, grad), expected_results(tensors, geometry, grad), dtype)


@every_kind
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pixels_that_are_nan_matter_where_they_are_read(level, kind, spread, layout):
    for seed in range(2):
        tensors, geometry, grad = case(
            kind, 2, (2, 3), (7, 6), 2, 1, spread=spread, whole_steps=2, dtype=torch.float32, seed=seed
        )
        tensors[0][0, 0, seed, 2 * seed % 5] = torch.nan
        tensors[0][1, :, 0, :] = torch.nan
        tensors[0] = in_layout(tensors[0], layout)
        expected = expected_results(tensors, geometry, grad)
        assert not all(t.isnan().all() for t in expected)
        assert_same(results(cpu, tensors, geometry, grad), expected, torch.float32)


@every_kind
def test_only_the_tensors_are_read(level, kind):
    tensors, geometry, grad = case(kind, 1, (3, 2), (5, 3), 2, 1, dtype=torch.float32)
    for layout in ("contiguous", "channels_last"):
        placed = [t if t.dim() == 1 else in_nan_buffer(in_layout(t, layout)) for t in tensors]
        actual = results(cpu, placed, geometry, in_nan_buffer(grad))
        assert_same(actual, expected_results(tensors, geometry, grad), torch.float32)


# ----------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("dense", [False, True], ids=["depthwise", "dense"])
def test_few_channels_take_little_memory(channels, dense, layout):
    kind = (channels, channels, 1 if dense else channels)
    tensors, geometry, _ = case(kind, 1, (1, 1), (96, 96), 1, 0, dtype=torch.float32)
    tensors[0] = in_layout(tensors[0], layout)
    with torch.profiler.profile(profile_memory=True) as profile:
        cpu.contextual_conv(*tensors, *geometry)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    # rows of x and of y, at most twice as long as their pixels, and y; the samples of a dense kernel beside
    beside = 4 * 96 * 96 * (4 * channels + 16) if dense else 4 * 1024
    assert taken < 5 * tensors[0].nbytes + beside


# ------------------------------------------------------------------------------------- threads, modes, refusal


@both_dtypes
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_any_number_of_threads_computes_the_same_bits(level, layout, dtype):
    tensors, geometry, grad = case((112, 112, 112), 1, (5, 5), (23, 21), 1, 2, spread=1.0, dtype=dtype)
    tensors[0] = in_layout(tensors[0], layout)
    with threads(1):
        alone = results(cpu, tensors, geometry, grad)
    for count in (2, 5):
        with threads(count):
            together = results(cpu, tensors, geometry, grad)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@every_kind
def test_repeated_calls_compute_the_same_bits(kind):
    tensors, geometry, grad = case(kind, 3, (3, 3), (33, 30), spread=1.0, dtype=torch.float32)
    with threads(2):
        first, second = (results(cpu, tensors, geometry, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", [(48, 48, 48), (16, 8, 1)], ids=["depthwise", "dense"])
def test_autocast_does_not_reach_into_the_kernels(kind):
    tensors, geometry, grad = case(kind, dtype=torch.float32)
    expected = results(cpu, tensors, geometry, grad)
    with torch.autocast("cpu", torch.bfloat16):
        actual = results(cpu, tensors, geometry, grad)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_the_operator_takes_the_kernels(monkeypatch):
    tensors, options = contextual_case(dtype=torch.float32)
    called = []
    monkeypatch.setattr(cpu, "_depthwise", lambda problem, x, *_: called.append(problem) or torch.zeros_like(x))
    contextual_conv2d(*tensors, **options)
    assert len(called) == 1


def test_tolerances_are_those_of_the_table():
    with pytest.raises(AssertionError):
        assert_same([torch.ones(1)] * 6, [torch.full((1,), 1 + 2 * TOLERANCE[torch.float32])] * 6, torch.float32)
