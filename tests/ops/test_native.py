"""The compiled kernels by themselves against plain torch in float64, for every instruction set here."""

import pytest
import torch
from _battery import (
    RUNNABLE,
    aggregation_results,
    convolution_case,
    convolution_results,
    in_layout,
    instructions,
    threads,
    uninitialised_is_nan,
)
from _op_cases import KINDS, NAMES, PLAIN, aggregation_case, contextual_case, every_kind
from hypothesis import given, settings
from hypothesis import strategies as st

from _oracle import TOLERANCE, assert_close, in_nan_buffer
from ctxvision.ops import contextual_conv2d
from ctxvision.ops._geometry import empty_like_layout
from ctxvision.ops.aggregation import cpu as aggregation_cpu
from ctxvision.ops.aggregation import reference as aggregation_reference
from ctxvision.ops.contextual_conv import cpu, reference

ORDERS = ["contiguous", "channels_last", "strided"]
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
two_layouts = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


@pytest.fixture(params=RUNNABLE)
def level(request):
    with instructions(request.param):
        yield


# ----------------------------------------------------------------------------------------- local aggregation


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
def aggregations(draw):
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


@given(problem=aggregations())
@settings(max_examples=150)
@pytest.mark.parametrize("name", RUNNABLE)
def test_any_aggregation_equals_plain_torch(name, problem):
    tensors, geometry = problem
    with instructions(name), uninitialised_is_nan():
        actual = aggregation_results(aggregation_cpu, *tensors, geometry)
    expected = aggregation_results(aggregation_reference, *(tensor.double() for tensor in tensors), geometry)
    assert_close(actual, expected, tensors[0].dtype)
    assert all(a.stride() == e.stride() for a, e in zip(actual, expected, strict=True))


@both_dtypes
@pytest.mark.parametrize("interleaved", [False, True], ids=["blocked", "interleaved"])
@two_layouts
def test_an_aggregation_has_the_same_bits_on_any_number_of_threads(level, layout, interleaved, dtype):
    geometry = ((1, 1), (3, 3), (1, 1), interleaved)
    x, weight = aggregation_case(2, 48, 3, 7, (40, 23), dtype=dtype)  # large enough for several bands of rows
    tensors = [in_order(t, layout) for t in (x, weight, x + 1)]
    with threads(1):
        alone = aggregation_results(aggregation_cpu, *tensors, geometry)
    with threads(5):
        together = aggregation_results(aggregation_cpu, *tensors, geometry)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@two_layouts
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 7), (9, 30)], ids=str)
def test_an_aggregation_writes_every_result_and_reads_nothing_else(level, layout, size):
    """Results start as NaN, and so does the memory around the tensors."""
    tensors = [
        in_nan_buffer(in_order(t, layout)) for t in aggregation_case(1, 20, 2, 7, size, dtype=torch.float32)
    ]
    for interleaved in (False, True):
        with uninitialised_is_nan():
            geometry = ((1, 1), (3, 3), (1, 1), interleaved)
            results = aggregation_results(aggregation_cpu, *tensors, tensors[0], geometry)
        assert all(tensor.isfinite().all() for tensor in results)


@pytest.mark.parametrize(
    ("shape", "groups", "padding"),
    [((1, 4, 0, 5), 2, (2, 1)), ((1, 0, 5, 5), 2, (1, 1)), ((0, 4, 5, 5), 2, (1, 1))],
)
def test_nothing_to_add_is_zero(level, shape, groups, padding):
    x = torch.randn(shape)
    out = [n + 2 * p - 2 for n, p in zip(shape[2:], padding, strict=True)]
    weight, grad = torch.randn(shape[0], groups, 9, *out), torch.randn(*shape[:2], *out)
    for result in aggregation_results(aggregation_cpu, x, weight, grad, ((1, 1), padding, (1, 1), False)):
        assert not result.any()


def test_bfloat16_is_rounded_once(level):
    """The sum of 49 products is formed in float32: it is the nearest bfloat16 to the exact one."""
    x, weight = aggregation_case(1, 32, 2, 7, (12, 12), dtype=torch.bfloat16)
    geometry = ((1, 1), (3, 3), (1, 1), False)
    exact = aggregation_reference.aggregate(x.double(), weight.double(), *geometry)
    spacing = torch.finfo(torch.bfloat16).eps * exact.abs().clamp(min=1e-3)
    assert (
        (aggregation_cpu.aggregate(x, weight, *geometry).double() - exact).abs() <= 0.5001 * spacing + 1e-5
    ).all()


# ------------------------------------------------------------------------------------ contextual convolution


@pytest.fixture(params=[1, 50, 1 << 19], ids=["short-chunks", "chunks", "whole"])
def column_floats(request, monkeypatch):
    """How many samples of a dense kernel are in memory at once; in units of a position, or all."""
    monkeypatch.setattr(cpu, "COLUMN_FLOATS", request.param * 9 * 4)


def expected_results(tensors, geometry, grad, needs=(True,) * 5):
    doubles = [None if t is None else t.double() for t in tensors]
    return convolution_results(reference, doubles, geometry, grad.double(), needs)


def assert_same(actual, expected, dtype):
    """As `assert_close`, where NaN is a value and stands in the same places."""
    for name, a, e in zip(("y", *NAMES[:5]), actual, expected, strict=True):
        assert a.dtype == dtype, name
        assert torch.equal(a.isnan(), e.isnan()), name
        assert_close(a.nan_to_num(nan=0), e.nan_to_num(nan=0), dtype, name)


@st.composite
def convolutions(draw):
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
    present = PLAIN | {"sampling_offset"} | draw(st.frozensets(st.sampled_from(NAMES[3:])))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    tensors, geometry, grad = convolution_case(
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
@given(problem=convolutions())
@settings(max_examples=100)
def test_any_convolution_equals_plain_torch(name, problem):
    tensors, geometry, grad, needs = problem
    with instructions(name), uninitialised_is_nan():
        actual = convolution_results(cpu, tensors, geometry, grad, needs)
    expected = expected_results(tensors, geometry, grad, needs)
    assert_same(actual, expected, tensors[0].dtype)
    assert actual[0].stride() == empty_like_layout(tensors[0], actual[0].shape).stride()


@both_dtypes
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset_layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(14, 14), (7, 7), (5, 17)], ids=str)
def test_network_shapes(level, dtype, layout, offset_layout, size):
    tensors, geometry, grad = convolution_case((96, 96, 96), 2, (7, 7), size, 1, 3, spread=1.0, dtype=dtype)
    tensors[0], grad = in_layout(tensors[0], layout), in_layout(grad, layout)
    tensors[2], tensors[4] = in_layout(tensors[2], offset_layout), in_layout(tensors[4], offset_layout)
    assert_same(
        convolution_results(cpu, tensors, geometry, grad), expected_results(tensors, geometry, grad), dtype
    )


@both_dtypes
@pytest.mark.parametrize("kind", [(12, 20, 1), (32, 16, 1), (12, 24, 4), (32, 32, 2), (5, 15, 5)], ids=str)
def test_samples_of_dense_kernels_in_pieces(level, column_floats, kind, dtype):
    tensors, geometry, grad = convolution_case(kind, 3, (3, 3), (9, 8), 1, 1, spread=1.0, dtype=dtype)
    assert_same(
        convolution_results(cpu, tensors, geometry, grad), expected_results(tensors, geometry, grad), dtype
    )


@pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["dense"]], ids=["depthwise", "dense"])
def test_sums_over_many_positions_stay_accurate(kind):
    # equal summands, so that a plain running sum would always round to the same side
    tensors, geometry, grad = convolution_case(kind, 1, (1, 2), (260, 250), 1, 0, spread=0.0, dtype=torch.float32)
    tensors[0], tensors[4], grad = (torch.full_like(t, 1.1) for t in (tensors[0], tensors[4], grad))
    needs = (False, True, False, True, False)
    expected = expected_results(tensors, geometry, grad, needs)
    assert expected[2].abs().min() > 5e4
    assert_same(convolution_results(cpu, tensors, geometry, grad, needs), expected, torch.float32)


@every_kind
@both_dtypes
def test_offsets_that_are_no_distance(level, kind, dtype):
    tensors, geometry, grad = convolution_case(kind, dtype=dtype)
    for column, bad in enumerate([torch.nan, torch.inf, -torch.inf, 3e38, -1e19]):
        tensors[2][0, 0, 2, column] = tensors[2][1, 7, 4, column] = bad  # vertical, horizontal, both
        tensors[2][1, 2:4, 1, column] = bad
    assert_same(
        convolution_results(cpu, tensors, geometry, grad), expected_results(tensors, geometry, grad), dtype
    )


@every_kind
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pixels_that_are_nan_matter_where_they_are_read(level, kind, spread, layout):
    for seed in range(2):
        tensors, geometry, grad = convolution_case(
            kind, 2, (2, 3), (7, 6), 2, 1, spread=spread, whole_steps=2, dtype=torch.float32, seed=seed
        )
        tensors[0][0, 0, seed, 2 * seed % 5] = torch.nan
        tensors[0][1, :, 0, :] = torch.nan
        tensors[0] = in_layout(tensors[0], layout)
        expected = expected_results(tensors, geometry, grad)
        assert not all(t.isnan().all() for t in expected)
        assert_same(convolution_results(cpu, tensors, geometry, grad), expected, torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("dense", [False, True], ids=["depthwise", "dense"])
def test_few_channels_take_little_memory(channels, dense, layout):
    kind = (channels, channels, 1 if dense else channels)
    tensors, geometry, _ = convolution_case(kind, 1, (1, 1), (96, 96), 1, 0, dtype=torch.float32)
    tensors[0] = in_layout(tensors[0], layout)
    with torch.profiler.profile(profile_memory=True) as profile:
        cpu.contextual_conv(*tensors, *geometry)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    # rows of x and of y, at most twice as long as their pixels, and y; the samples of a dense kernel beside
    beside = 4 * 96 * 96 * (4 * channels + 16) if dense else 4 * 1024
    assert taken < 5 * tensors[0].nbytes + beside


@both_dtypes
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_any_number_of_threads_computes_the_same_bits(level, layout, dtype):
    tensors, geometry, grad = convolution_case((112, 112, 112), 1, (5, 5), (23, 21), 1, 2, spread=1.0, dtype=dtype)
    tensors[0] = in_layout(tensors[0], layout)
    with threads(1):
        alone = convolution_results(cpu, tensors, geometry, grad)
    for count in (2, 5):
        with threads(count):
            together = convolution_results(cpu, tensors, geometry, grad)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@every_kind
def test_repeated_calls_compute_the_same_bits(kind):
    tensors, geometry, grad = convolution_case(kind, 3, (3, 3), (33, 30), spread=1.0, dtype=torch.float32)
    with threads(2):
        first, second = (convolution_results(cpu, tensors, geometry, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", [(48, 48, 48), (16, 8, 1)], ids=["depthwise", "dense"])
def test_autocast_does_not_reach_into_the_kernels(kind):
    tensors, geometry, grad = convolution_case(kind, dtype=torch.float32)
    expected = convolution_results(cpu, tensors, geometry, grad)
    with torch.autocast("cpu", torch.bfloat16):
        actual = convolution_results(cpu, tensors, geometry, grad)
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
