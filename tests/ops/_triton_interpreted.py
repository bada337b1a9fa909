"""The Triton kernels in Triton's interpreter. `test_triton_interpreter.py` runs this file in a process of its own.

The interpreter must be asked for before anything imports triton, and it takes milliseconds per operation: tensors
are tiny. On a GPU the compiled kernels run in the tests of the operators.
"""

import pytest
import torch
from _op_cases import (
    ALL,
    GROUPINGS,
    KINDS,
    LOW_PRECISION,
    PLAIN,
    aggregation_case,
    check_strides_as_promised,
    contextual_case,
    on_cpu_in_double,
)

from _oracle import (
    assert_close,
    contextual_conv2d_torchvision,
    in_nan_buffer,
    layouts,
    local_aggregation_unfold,
    outputs_and_gradients,
)
from ctxvision.ops import contextual_conv2d, local_aggregation, use_backend
from ctxvision.ops.aggregation import reference as aggregation_reference
from ctxvision.ops.aggregation import triton as aggregation_triton
from ctxvision.ops.contextual_conv import _triton_kernels
from ctxvision.ops.contextual_conv import reference as contextual_reference
from ctxvision.ops.contextual_conv import triton as contextual_triton

DTYPES = [torch.float32, *LOW_PRECISION]
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def _triton():
    with use_backend("triton"):
        yield


@pytest.fixture
def deterministic():
    """Torch's switch, which also fills new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def laid_out(x, channels_last):
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


# ----------------------------------------------------------------------------------------- local aggregation


def check_aggregation(x, weight, **options):
    grad = torch.randn(x.shape[:2] + weight.shape[-2:]).to(x.dtype)
    actual = outputs_and_gradients(local_aggregation, [x, weight], grad=grad, **options)
    assert all(t.dtype == x.dtype for t in actual)
    expected = outputs_and_gradients(local_aggregation_unfold, on_cpu_in_double([x, weight]), grad=grad, **options)
    assert_close(actual, expected, x.dtype)
    return actual


@pytest.mark.usefixtures("deterministic")
class TestAggregation:
    @both_layouts
    @pytest.mark.parametrize("grouping", GROUPINGS)
    @every_dtype
    def test_every_dtype(self, dtype, grouping, channels_last):
        x, weight = aggregation_case(2, 6, 2, 3, dtype=dtype)
        y, grad_x, _ = check_aggregation(laid_out(x, channels_last), weight, grouping=grouping)
        assert y.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert grad_x.is_contiguous(memory_format=torch.channels_last) == channels_last

    # one channel per group up to more than a tile holds; sizes with a rest against strips and tiles
    @pytest.mark.parametrize(
        ("groups", "per_group", "k", "size", "options", "channels_last"),
        [
            (3, 1, 1, (5, 3), {}, False),
            (1, 16, 7, (3, 4), {}, True),
            (1, 3, 7, (3, 4), {}, False),
            (1, 48, 3, (3, 4), {"grouping": "blocked"}, True),
            (1, 17, 2, (3, 4), {"grouping": "blocked", "padding": 1}, False),
            (2, 24, 3, (1, 3), {"grouping": "interleaved"}, True),
            (35, 1, 3, (1, 3), {"grouping": "interleaved"}, True),
            (1, 8, 5, (9, 2), {"stride": 2}, True),
            (2, 3, 3, (7, 6), {"stride": (2, 1)}, False),
            (2, 3, 3, (6, 7), {"stride": (1, 3), "padding": (0, 4)}, True),
            (2, 3, 2, (5, 6), {"dilation": (1, 2), "padding": 1}, False),
            (2, 3, 3, (6, 5), {"dilation": 2, "stride": 3}, True),
        ],
        ids=str,
    )
    def test_geometries(self, groups, per_group, k, size, options, channels_last):
        geometry = {name: value for name, value in options.items() if name != "grouping"}
        x, weight = aggregation_case(1, groups * per_group, groups, k, size, **geometry, dtype=torch.float32)
        check_aggregation(laid_out(x, channels_last), weight, **options)

    @pytest.mark.parametrize("batch", [0, 1, 3])
    def test_batches(self, batch):
        x, weight = aggregation_case(batch, 4, 2, 2, (2, 3), padding=1, dtype=torch.float32)
        check_aggregation(laid_out(x, batch == 3), weight, padding=1)

    @pytest.mark.parametrize("which", range(2), ids=["x", "weight"])
    def test_any_strides(self, which):
        tensors = aggregation_case(2, 4, 2, 2, (3, 4), stride=2, padding=1, dtype=torch.float32)
        for _, other in layouts(tensors[which]):
            check_aggregation(*[other if n == which else t for n, t in enumerate(tensors)], stride=2, padding=1)

    def test_some_channels_of_a_channels_last_tensor(self):
        x, weight = aggregation_case(2, 16, 2, 2, (3, 4), padding=1, dtype=torch.float32)
        check_aggregation(laid_out(x, True)[:, :8], weight, padding=1)
        check_aggregation(laid_out(x, True)[:, 5:13], weight, padding=1, grouping="interleaved")

    @both_layouts
    def test_memory_around_the_tensors_is_not_read(self, channels_last):
        x, weight = aggregation_case(2, 4, 2, 3, (5, 3), dtype=torch.float32)
        check_aggregation(in_nan_buffer(laid_out(x, channels_last)), in_nan_buffer(weight))

    def test_second_derivatives(self):
        def second(function, x, weight):
            x, weight = x.requires_grad_(), weight.requires_grad_()
            y = function(x, weight, stride=2)
            first = torch.autograd.grad((y**2).sum(), [x, weight], create_graph=True)
            return torch.autograd.grad(sum((g**2).sum() for g in first), [x, weight])

        tensors = aggregation_case(1, 4, 2, 3, (3, 3), 2, dtype=torch.float32)
        expected = second(local_aggregation_unfold, *on_cpu_in_double(tensors))
        assert_close(second(local_aggregation, *tensors), expected, torch.float32)

    def test_float64_is_refused_with_the_reason(self):
        with pytest.raises(RuntimeError, match=r"'triton'.*float32, float16, bfloat16, got float64"):
            local_aggregation(*aggregation_case())


# ------------------------------------------------------------------------------------ contextual convolution


def check_contextual(tensors, options):
    size = tensors[2].shape[2:]
    grad = torch.randn(tensors[0].shape[0], tensors[1].shape[0], *size, generator=torch.Generator().manual_seed(1))
    grad = grad.to(tensors[0].dtype)
    actual = outputs_and_gradients(contextual_conv2d, tensors, grad=grad, **options)
    assert all(t.dtype == tensors[0].dtype for t in actual)
    expected = outputs_and_gradients(
        contextual_conv2d_torchvision, on_cpu_in_double(tensors), grad=grad, **options
    )
    assert_close(actual, expected, tensors[0].dtype)
    return actual


class TestContextual:
    @both_layouts
    @every_kind
    @every_dtype
    def test_every_dtype(self, dtype, kind, channels_last):
        tensors, options = contextual_case(kind, 2, (1, 3), (3, 4), spread=1.0, dtype=dtype)
        tensors[0] = laid_out(tensors[0], channels_last)
        y, grad_x, *_ = check_contextual(tensors, options)
        assert y.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert grad_x.is_contiguous(memory_format=torch.channels_last) == channels_last

    @pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["grouped"]], ids=["depthwise", "grouped"])
    @pytest.mark.parametrize(
        "present",
        [PLAIN | {"offset"}, PLAIN | {"mask"}, ALL - {"mask"}, ALL - {"weight_offset"}, ALL - {"bias"}],
        ids=lambda names: "+".join(sorted(names)),
    )
    def test_arguments_that_are_not_there(self, kind, present):
        tensors, options = contextual_case(
            kind, 1, (2, 1), (3, 3), padding=0, present=present, dtype=torch.float32
        )
        actual = outputs_and_gradients(contextual_conv2d, tensors, **options)
        expected = outputs_and_gradients(contextual_conv2d_torchvision, on_cpu_in_double(tensors), **options)
        assert_close(actual, expected, torch.float32)

    @pytest.mark.parametrize(
        ("kind", "kernel", "size", "geometry", "channels_last"),
        [
            ((3, 3, 3), (7, 7), (2, 3), {"padding": 3}, True),
            ((3, 3, 3), (5, 5), (2, 3), {"padding": 2}, False),
            ((35, 35, 35), (1, 2), (3, 3), {"padding": (0, 1)}, False),
            ((80, 80, 80), (1, 1), (5, 4), {"padding": 0}, True),
            ((6, 6, 6), (3, 1), (5, 6), {"stride": (2, 1), "padding": (2, 0), "dilation": (2, 1)}, True),
            ((6, 6, 6), (1, 3), (5, 6), {"stride": (1, 3), "padding": (2, 0), "dilation": (1, 2)}, False),
            ((20, 5, 1), (2, 1), (3, 4), {"stride": 2}, True),
            ((24, 16, 2), (1, 2), (4, 3), {"dilation": (1, 2)}, True),
        ],
        ids=str,
    )
    def test_geometries(self, kind, kernel, size, geometry, channels_last):
        tensors, options = contextual_case(kind, 1, kernel, size, spread=1.0, **geometry, dtype=torch.float32)
        tensors[0] = laid_out(tensors[0], channels_last)
        check_contextual(tensors, options)

    @pytest.mark.parametrize("kind", [KINDS["depthwise"], KINDS["dense"]], ids=["depthwise", "dense"])
    @pytest.mark.parametrize("batch", [0, 1, 3])
    def test_batches(self, kind, batch):
        tensors, options = contextual_case(kind, batch, (1, 2), (2, 3), dtype=torch.float32)
        if batch:
            check_contextual(tensors, options)
        else:
            y, *grads = outputs_and_gradients(contextual_conv2d, tensors, **options)
            assert y.shape[0] == 0
            assert [g.shape for g in grads] == [t.shape for t in tensors]
            assert not any(g.any() for g in grads)

    @pytest.mark.parametrize("kind", [KINDS["dense"], KINDS["grouped"]], ids=["dense", "grouped"])
    def test_columns_of_one_image_at_a_time(self, kind, monkeypatch):
        monkeypatch.setattr(contextual_triton, "COLUMNS", 1)
        tensors, options = contextual_case(kind, 3, (1, 2), (3, 2), dtype=torch.float32)
        check_contextual(tensors, options)

    @pytest.mark.parametrize("which", [0, 2, 4], ids=["x", "offset", "mask"])
    def test_any_strides(self, which):
        tensors, options = contextual_case(KINDS["depthwise"], 2, (1, 2), (3, 4), dtype=torch.float32)
        for _, other in layouts(tensors[which]):
            check_contextual([other if n == which else t for n, t in enumerate(tensors)], options)

    @both_layouts
    def test_memory_around_the_tensors_is_not_read(self, channels_last):
        tensors, options = contextual_case(KINDS["depthwise"], 2, (2, 2), (3, 3), dtype=torch.float32)
        tensors[0] = laid_out(tensors[0], channels_last)
        check_contextual([in_nan_buffer(t) for t in tensors], options)

    @both_layouts
    @pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
    def test_infinite_and_nan_offsets_touch_their_own_position_only(self, bad, channels_last):
        tensors, options = contextual_case(KINDS["depthwise"], 2, (2, 2), (3, 3), dtype=torch.float32)
        tensors[0] = laid_out(tensors[0], channels_last)
        with use_backend("torch"):
            clean = contextual_conv2d(*tensors, **options)
        tensors[2][0, 0, 2, 1] = tensors[2][1, 7, 0, 0] = bad
        with use_backend("torch"):
            expected = outputs_and_gradients(contextual_conv2d, tensors, **options)
        actual = outputs_and_gradients(contextual_conv2d, tensors, **options)
        touched = (actual[0] - clean).abs().nan_to_num(nan=1.0).amax(1) > 1e-4
        assert touched.nonzero().tolist() in ([[0, 2, 1], [1, 0, 0]], [])
        assert_close([t.nan_to_num() for t in actual], [t.nan_to_num() for t in expected], torch.float32)
        assert [t.isnan().nonzero().tolist() for t in actual] == [t.isnan().nonzero().tolist() for t in expected]

    @both_layouts
    def test_pixels_that_no_tap_reads_do_not_matter(self, channels_last):
        tensors, options = contextual_case(KINDS["depthwise"], 1, (1, 1), (4, 4), 2, 0, dtype=torch.float32)
        tensors[2] = torch.zeros_like(tensors[2])
        tensors[2][:, :, 0] = -9.0  # outside: no clamped read times zero
        tensors[0][:, :, ::2] = torch.nan
        tensors[0][:, :, 3], tensors[0][..., 3] = torch.nan, torch.nan
        tensors[0] = laid_out(tensors[0], channels_last)
        assert not contextual_conv2d(*tensors[:5], None, **options)[:, :, 0].any()

    def test_positions_are_not_rounded_to_half_precision(self):
        tensors, options = contextual_case(
            (2, 2, 2), 1, (1, 1), (1, 600), padding=0, dtype=torch.float16, spread=1.0
        )
        check_contextual(tensors, options)

    @pytest.mark.usefixtures("deterministic")
    @every_kind
    def test_deterministic_algorithms_add_nothing_atomically(self, kind, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("an atomic addition")

        monkeypatch.setattr(_triton_kernels, "_scatter", refuse)
        tensors, options = contextual_case(kind, 2, (2, 2), (3, 3), dtype=torch.float32)
        first, second = (check_contextual(tensors, options) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    @both_layouts
    def test_strides_are_those_promised_to_compilers(self, channels_last):
        check_strides_as_promised(channels_last)

    def test_float64_is_refused_with_the_reason(self):
        tensors, options = contextual_case()
        with pytest.raises(RuntimeError, match=r"'triton'.*float32, float16, bfloat16, got float64"):
            contextual_conv2d(*tensors, **options)


# ------------------------------------------------------- numbers that are not finite, torch's defaults, the door


def same_kinds(actual, expected):
    for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
        kinds = [t.isnan() * 1 + t.isposinf() * 2 + t.isneginf() * 3 for t in (a, e)]
        assert torch.equal(*kinds), f"result {n}"


class TestKinds:
    @both_layouts
    @pytest.mark.parametrize("which", [0, 1, 2], ids=["x", "weight", "grad"])
    def test_aggregation_of_numbers_that_are_not_finite(self, which, channels_last):
        x, weight = aggregation_case(1, 4, 2, 3, size=(3, 4), dtype=torch.float32)
        tensors = [x, weight, torch.randn_like(x)]
        for n, bad in enumerate((torch.nan, torch.inf, -torch.inf)):
            tensors[which].view(-1)[7 * n] = bad
        x, weight, grad = laid_out(tensors[0], channels_last), weight, laid_out(tensors[2], channels_last)
        for interleaved in (False, True):
            geometry = ((1, 1), (1, 1), (1, 1), interleaved)
            actual, expected = (
                (
                    kernels.aggregate(x, weight, *geometry),
                    kernels.input_grad(grad, weight, x.shape[2:], *geometry),
                    kernels.weight_grad(x, grad, 2, 9, *geometry),
                )
                for kernels in (aggregation_triton, aggregation_reference)
            )
            same_kinds(actual, expected)

    @every_kind
    def test_contextual_convolution_of_numbers_that_are_not_finite(self, kind):
        for which in range(6):
            tensors, options = contextual_case(kind, 1, (1, 2), (3, 4), dtype=torch.float32, seed=which)
            grad = torch.randn(1, kind[1], 5, 5)
            for n, bad in enumerate((torch.nan, torch.inf)):
                tensors[which].view(-1)[n] = bad
            geometry = ((1, 1), (1, 1), (1, 1), options["groups"])
            actual, expected = (
                (
                    kernels.contextual_conv(*tensors, *geometry),
                    *kernels.backward(grad, *tensors[:5], *geometry, [True] * 5),
                )
                for kernels in (contextual_triton, contextual_reference)
            )
            same_kinds(actual, expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_operators_do_not_ask_for_torch_s_default_dtype(self, dtype):
        x, weight = aggregation_case(1, 4, 2, 3, size=(3, 4), dtype=torch.float32)
        tensors, options = contextual_case(KINDS["dense"], 1, (1, 2), (3, 4), dtype=torch.float32)
        found = []
        for default in (torch.float32, dtype):
            torch.set_default_dtype(default)
            try:
                found.append(
                    [
                        *outputs_and_gradients(
                            local_aggregation, [x, weight], grad=torch.ones(1, 4, 3, 4).float()
                        ),
                        *outputs_and_gradients(
                            contextual_conv2d, tensors, grad=torch.ones(1, 5, 5, 5).float(), **options
                        ),
                    ]
                )
            finally:
                torch.set_default_dtype(torch.float32)
        assert all(torch.equal(a, e) and a.dtype == e.dtype for a, e in zip(*found, strict=True))
