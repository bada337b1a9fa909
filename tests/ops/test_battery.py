"""Both operators on every backend, forward and backward, against their oracles in float64.

`test_triton_interpreter.py` runs this file once more in a process where Triton's interpreter is the only backend.
What torch allocates is NaN while an operator runs, so that a number that no kernel writes shows.
"""

import pytest
import torch
from _battery import (
    ADDED_UP_IN_TYPE,
    AGGREGATIONS,
    BACKENDS,
    CONVOLUTIONS,
    INTERPRETED,
    PRESENT,
    both_layouts,
    check,
    computing,
    each_operator,
    every_backend,
    every_backend_and_dtype,
    every_operator,
    every_presence,
    expect,
    gradient_of_output,
    laid_out,
    run,
)
from _op_cases import ALL, LOW_PRECISION, check_strides_as_promised, on_cpu_in_double

from _oracle import (
    assert_close,
    in_nan_buffer,
    layouts,
    local_aggregation_unfold,
    outputs_and_gradients,
)
from ctxvision.ops import contextual_conv2d, use_backend

BAD = (torch.nan, torch.inf, -torch.inf)


# ----------------------------------------------------------------------------------------- values and geometries

# (groups, channels per group, k, stride): widths around 8, 16 and 32, where vector kernels have remainders
AGGREGATION_WIDTHS = [
    (2, 16, 7, 1), (3, 16, 7, 2), (1, 17, 3, 1), (8, 8, 3, 1), (5, 1, 5, 2), (1, 33, 3, 2), (40, 3, 3, 1),
]  # fmt: skip
CONVOLUTION_WIDTHS = [  # (kind, kernel, padding, stride)
    ((24, 24, 24), (7, 7), 3, 1), ((33, 33, 33), (3, 3), 1, 1), ((17, 17, 17), (3, 5), (1, 2), 2),
    ((16, 24, 1), (3, 3), 1, 2), ((32, 32, 4), (3, 3), 1, 1),
]  # fmt: skip


def network_shapes():
    for operator in AGGREGATIONS:
        if INTERPRETED:
            yield operator, {"channels": 6, "groups": 2, "size": (5, 7)}
            continue
        for groups, shared, k, stride in AGGREGATION_WIDTHS:
            case = {"channels": groups * shared, "groups": groups, "kernel": (k, k), "size": (9, 11)}
            yield operator, {**case, "stride": stride, "padding": k // 2}
    if INTERPRETED:
        for operator in CONVOLUTIONS:
            yield operator, {"kernel": (1, 3), "size": (3, 4), "spread": 1.0}
        return
    for present in (PRESENT["all"], PRESENT["paper"], PRESENT["grid"]):
        for kind, kernel, padding, stride in CONVOLUTION_WIDTHS:
            case = {"kind": kind, "kernel": kernel, "size": (9, 8), "padding": padding, "stride": stride}
            yield CONVOLUTIONS[1], {**case, "present": present, "spread": 1.0}


@every_backend_and_dtype
@pytest.mark.parametrize(
    ("operator", "shape"), list(network_shapes()), ids=lambda v: str(v) if not isinstance(v, dict) else ""
)
def test_network_shapes_in_every_dtype_and_layout(backend, dtype, operator, shape):
    tensors, options = operator.case(**shape, dtype=dtype)
    expected = expect(operator, tensors, options)
    sampled = "sampling_offset" in shape.get("present", ALL)  # otherwise torch's own convolution computes
    for channels_last in (False, True):
        tensors[0] = laid_out(tensors[0], channels_last)
        actual = run(backend, operator, tensors, options)
        assert all(t.dtype == dtype for t in actual)
        for image in actual[: 2 if sampled else 1]:
            assert image.is_contiguous(memory_format=torch.channels_last) == channels_last
        held = [n for n in range(len(actual)) if sampled or n not in ADDED_UP_IN_TYPE.get(dtype, ())]
        assert_close([actual[n] for n in held], [expected[n] for n in held], dtype)


# one channel per group up to more than a tile holds; sizes with a rest against strips and tiles
AGGREGATION_GEOMETRIES = [  # groups, channels per group, kernel, size, steps
    (3, 1, 1, (5, 3), {"padding": 0}),
    (1, 16, 7, (3, 4), {"padding": 3}),
    (1, 3, 7, (3, 4), {"padding": 3}),
    (1, 48, 3, (3, 4), {}),
    (1, 17, 2, (3, 4), {}),
    (2, 24, 3, (1, 3), {}),
    (35, 1, 3, (1, 3), {}),
    (1, 8, 5, (9, 2), {"stride": 2, "padding": 2}),
    (2, 3, 3, (7, 6), {"stride": (2, 1)}),
    (2, 3, 3, (6, 7), {"stride": (1, 3), "padding": (0, 4)}),
    (2, 3, 2, (5, 6), {"dilation": (1, 2)}),
    (2, 3, 3, (6, 5), {"dilation": 2, "stride": 3, "padding": 2}),
    *((2, 2, k, size, {"stride": 2, "padding": k // 2}) for k in (1, 3, 7)
      for size in ((1, 1), (1, 5), (5, 5), (7, 9), (13, 4))),
]  # fmt: skip
CONVOLUTION_GEOMETRIES = [  # kind, kernel, size, steps
    ((3, 3, 3), (7, 7), (2, 3), {"padding": 3}),
    ((3, 3, 3), (5, 5), (2, 3), {"padding": 2}),
    ((35, 35, 35), (1, 2), (3, 3), {"padding": (0, 1)}),
    ((80, 80, 80), (1, 1), (5, 4), {"padding": 0}),
    ((6, 6, 6), (3, 1), (5, 6), {"stride": (2, 1), "padding": (2, 0), "dilation": (2, 1)}),
    ((6, 6, 6), (1, 3), (5, 6), {"stride": (1, 3), "padding": (2, 0), "dilation": (1, 2)}),
    ((20, 5, 1), (2, 1), (3, 4), {"stride": 2}),
    ((24, 16, 2), (1, 2), (4, 3), {"dilation": (1, 2)}),
]


def geometries():
    for n, (groups, shared, k, size, steps) in enumerate(AGGREGATION_GEOMETRIES[: 12 if INTERPRETED else None]):
        case = {"channels": groups * shared, "groups": groups, "kernel": (k, k), "size": size, **steps}
        if INTERPRETED:  # one grouping and layout each: many groups of one channel only where they are vectors
            yield AGGREGATIONS[int(n in (5, 6))], case, (n in (1, 3, 5, 6, 7, 9, 11),)
        else:
            yield from ((operator, case, (False, True)) for operator in AGGREGATIONS)
    for n, (kind, kernel, size, steps) in enumerate(CONVOLUTION_GEOMETRIES):
        case = {"kind": kind, "kernel": kernel, "size": size, "spread": 1.0, **steps}
        yield CONVOLUTIONS[1], case, (n not in (1, 2, 5),) if INTERPRETED else (False, True)


@every_backend
@pytest.mark.parametrize(
    ("operator", "geometry", "layouts_of_x"),
    list(geometries()),
    ids=lambda v: "" if isinstance(v, (dict, tuple)) else str(v),
)
def test_geometries(backend, operator, geometry, layouts_of_x):
    tensors, options = operator.case(batch=1, **geometry, dtype=backend.dtype)
    for channels_last in layouts_of_x:
        tensors[0] = laid_out(tensors[0], channels_last)
        check(backend, operator, tensors, options)


@every_backend
@every_operator
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches(backend, operator, batch):
    tensors, options = operator.case(batch, (2, 3), (2, 2), dtype=backend.dtype)
    actual = run(backend, operator, tensors, options)
    if batch:
        assert_close(actual, expect(operator, tensors, options), backend.dtype)
    else:
        assert actual[0].shape == gradient_of_output(tensors, options).shape
        assert [g.shape for g in actual[1:]] == [t.shape for t in tensors]
        assert not any(g.any() for g in actual[1:])


@every_backend
@every_operator
def test_second_derivatives(backend, operator):
    def second(function, tensors, options):
        leaves = [t.clone().requires_grad_() for t in tensors]
        first = torch.autograd.grad((function(*leaves, **options) ** 2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves, materialize_grads=True)

    smooth = {"smooth": True, "spread": 0.5} if operator in CONVOLUTIONS else {}
    tensors, options = operator.case(1, (3, 3), (2, 2), 2, dtype=backend.dtype, **smooth)
    with computing(backend):
        actual = second(operator.function, [t.to(backend.device) for t in tensors], options)
    with use_backend("torch"):  # torchvision's has no second derivative
        oracle = operator.oracle if operator in AGGREGATIONS else operator.function
        expected = second(oracle, on_cpu_in_double(tensors), options)
    assert_close(actual, expected, backend.dtype)


# -------------------------------------------------------------------------------------------------------- memory


def arguments():
    """Every argument of every operator; of a convolution that samples nothing those that are left."""
    for operator in [AGGREGATIONS[0], CONVOLUTIONS[0]] if INTERPRETED else AGGREGATIONS + CONVOLUTIONS:
        for which, name in enumerate(operator.arguments):
            yield pytest.param(operator, which, {}, id=f"{operator}-{name}")
            if operator in CONVOLUTIONS and name in PRESENT["grid"] and not INTERPRETED:
                yield pytest.param(operator, which, {"present": PRESENT["grid"]}, id=f"{operator}-grid-{name}")


@every_backend
@pytest.mark.parametrize(("operator", "which", "present"), list(arguments()))
def test_strides_of_the_arguments_do_not_matter(backend, operator, which, present):
    tensors, options = operator.case(2, (3, 4), (2, 2), 2, **present, dtype=backend.dtype)
    expected = expect(operator, tensors, options)
    for name, other in layouts(tensors[which]):
        varied = [other if n == which else t for n, t in enumerate(tensors)]
        assert_close(run(backend, operator, varied, options), expected, backend.dtype, name)


@every_backend
@every_operator
@both_layouts
def test_memory_around_the_tensors_is_not_read(backend, operator, channels_last):
    tensors, options = operator.case(2, (5, 3), stride=2, dtype=backend.dtype)
    expected = expect(operator, tensors, options)
    tensors[0] = laid_out(tensors[0], channels_last)
    grad = in_nan_buffer(gradient_of_output(tensors, options))
    actual = run(backend, operator, [in_nan_buffer(t) for t in tensors], options, grad)
    assert_close(actual, expected, backend.dtype)


@every_backend
@every_presence
@both_layouts
def test_pixels_that_no_tap_reads_do_not_matter(backend, operator, present, channels_last):
    tensors, options = operator.case(2, (7, 9), (1, 1), 3, 0, dtype=backend.dtype, **present)
    sampled = "sampling_offset" in present.get("present", ())
    if sampled:  # half a pixel on: rows and columns 3i and 3i + 1 are read, elsewhere 3i alone
        tensors[2] = torch.full_like(tensors[2], 0.5)
    expected = expect(operator, tensors, options)
    unread = torch.zeros(7, 9, dtype=torch.bool)
    for first in (2,) if sampled or present else (1, 2):
        unread[first::3], unread[:, first::3] = True, True
    tensors[0] = laid_out(tensors[0].masked_fill(unread, torch.nan), channels_last)
    actual = run(backend, operator, tensors, options)
    assert_close(actual, expected, backend.dtype)
    assert not actual[1][..., unread].any(), "an unread pixel has a gradient"


@every_backend
@each_operator
def test_some_channels_of_a_channels_last_tensor(backend, operator):
    wide = {"channels": 16} if operator in AGGREGATIONS else {"kind": (16, 16, 16)}
    tensors, options = operator.case(2, (3, 4), (2, 2), dtype=backend.dtype, **wide)
    x = torch.cat([tensors[0], tensors[0] + 1], 1).contiguous(memory_format=torch.channels_last)
    for first in (0, 5):
        check(backend, operator, [x[:, first : first + 16], *tensors[1:]], options)


@every_backend
@every_presence
def test_no_argument_is_modified(backend, operator, present):
    tensors, options = operator.case(size=(3, 4), dtype=backend.dtype, **present)
    tensors = [None if t is None else t.to(backend.device) for t in tensors]
    given = [t for t in tensors if t is not None]
    before, leaves = [t.clone() for t in given], [t.requires_grad_() for t in given]
    with computing(backend):
        y = operator.function(*tensors, **options)
        saved, grad = y.detach().clone(), torch.ones_like(y)
        y.backward(grad)
    assert all(torch.equal(a, b) for a, b in zip(leaves, before, strict=True))
    assert torch.equal(y, saved)
    assert torch.equal(grad, torch.ones_like(grad))
    assert y.untyped_storage().data_ptr() not in [t.untyped_storage().data_ptr() for t in leaves]


@every_backend
@every_presence
def test_channels_last_is_kept(backend, operator, present):
    tensors, options = operator.case(size=(3, 4), dtype=backend.dtype, **present)
    tensors = [None if t is None else t.to(backend.device) for t in tensors]
    with computing(backend):
        assert operator.function(*tensors, **options).is_contiguous()
        y = operator.function(laid_out(tensors[0], True), *tensors[1:], **options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()


@every_backend
@each_operator
def test_expanded_arguments_and_gradient(backend, operator):
    tensors, options = operator.case(batch=1, size=(3, 4), dtype=backend.dtype)
    per_image = [operator in AGGREGATIONS or n not in (1, 5) for n in range(len(tensors))]
    ones = [[1] * (t.dim() - 1) for t in tensors]
    repeated = [t.repeat(3, *o) if p else t for t, o, p in zip(tensors, ones, per_image, strict=True)]
    expanded = [t.expand(3, *t.shape[1:]) if p else t for t, p in zip(tensors, per_image, strict=True)]
    assert_close(run(backend, operator, expanded, options), expect(operator, repeated, options), backend.dtype)
    # the gradient of sum() is one number, expanded: gradients still have the memory format of the input
    tensors[0] = laid_out(tensors[0], True)
    grad = torch.ones((), dtype=backend.dtype).expand(gradient_of_output(tensors, options).shape)
    from_sum = run(backend, operator, tensors, options, grad)
    dense = run(backend, operator, tensors, options, grad.contiguous())
    assert from_sum[1].is_contiguous(memory_format=torch.channels_last)
    assert_close(from_sum, dense, backend.dtype)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.device == "cpu"], ids=str)
@both_layouts
def test_strides_are_those_promised_to_compilers(backend, channels_last):
    with computing(backend):
        check_strides_as_promised(channels_last)


# ------------------------------------------------------------------------- where samples fall, and special numbers


@every_backend
@pytest.mark.parametrize("operator", CONVOLUTIONS[:1] if INTERPRETED else CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_infinite_and_nan_offsets_touch_their_own_position_only(backend, operator, bad):
    tensors, options = operator.case(2, (3, 3), (2, 2), dtype=backend.dtype)
    clean = operator.function(*on_cpu_in_double(tensors), **options)
    tensors[2][0, 0, 2, 1] = tensors[2][1, 7, 0, 0] = bad
    with use_backend("torch"):
        expected = outputs_and_gradients(
            operator.function, on_cpu_in_double(tensors), grad=gradient_of_output(tensors, options), **options
        )
    for channels_last in (False, True):
        tensors[0] = laid_out(tensors[0], channels_last)
        actual = run(backend, operator, tensors, options)
        touched = (actual[0].cpu() - clean).abs().nan_to_num(nan=1.0).amax(1) > 1e-4
        assert {tuple(position) for position in touched.nonzero().tolist()} <= {(0, 2, 1), (1, 0, 0)}
        assert [t.isnan().nonzero().tolist() for t in actual] == [t.isnan().nonzero().tolist() for t in expected]
        finite = [[t.nan_to_num(nan=0) for t in each] for each in (actual, expected)]
        assert_close(*finite, backend.dtype)


@pytest.mark.parametrize(
    ("backend", "dtype"), [(b, d) for b in BACKENDS for d in b.dtypes if d in LOW_PRECISION], ids=str
)
def test_positions_are_not_rounded_to_half_precision(backend, dtype):
    # at column 600 the spacing of float16 is 0.5 and that of bfloat16 is 4
    kernel = (1, 1) if INTERPRETED else (1, 3)
    case = {"kind": (2, 2, 2), "kernel": kernel, "size": (1, 600), "padding": (0, kernel[1] // 2)}
    check(backend, CONVOLUTIONS[0], *CONVOLUTIONS[0].case(1, **case, dtype=dtype, spread=1.0))


@every_backend
@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("operator", AGGREGATIONS, ids=str)
def test_a_tap_outside_is_zero_times_its_weight(backend, operator, bad):
    (x, weight), options = operator.case(1, dtype=backend.dtype)
    weight[0, 1, 0, 0, 0] = bad  # the tap above and left of the first position
    x, weight = x.to(backend.device).requires_grad_(), weight.to(backend.device)
    with computing(backend):
        y = operator.function(x, weight, **options)
        (of_x,) = torch.autograd.grad(y[:, :, 1:].sum(), x)
    unfolded = local_aggregation_unfold(x, weight, **options)
    assert torch.equal(y.isnan(), unfolded.isnan())
    assert y.isnan().sum() == 2  # the channels of the group, there
    assert of_x.isfinite().all()  # what lies outside has no gradient


@every_backend
def test_what_the_contextual_readme_says_of_special_numbers(backend):
    def convolve(kernel, offset, mask=None):
        tensors = [torch.ones(1, 1, 3, 3), kernel, offset, None, mask]
        tensors = [None if t is None else t.to(backend.device, backend.dtype) for t in tensors]
        return contextual_conv2d(*tensors, padding=1).cpu()

    kernel, offset, mask = torch.ones(1, 1, 3, 3), torch.zeros(1, 18, 3, 3), torch.ones(1, 9, 3, 3)
    with computing(backend):
        kernel[0, 0, 0, 0] = torch.nan  # outside for the first row and column, and NaN there as well
        assert convolve(kernel, offset).isnan().all()
        kernel = torch.ones(1, 1, 3, 3)
        mask[0, 4, 1, 1] = torch.inf  # at a whole position three coefficients are zero
        assert convolve(kernel, offset, mask).isnan().sum() == 1
        offset[0, 8, 1, 1] = torch.nan
        assert convolve(kernel, offset).isnan().sum() == 1
        offset[0, 8, 1, 1] = torch.inf  # outside: zero
        assert convolve(kernel, offset)[0, 0, 1, 1] == 8


# ------------------------------------------------------------------------------------------ dtypes and repetition


@every_backend
@every_operator
def test_repeated_calls_are_identical(backend, operator):
    tensors, options = operator.case(3, (3, 3) if INTERPRETED else (9, 9), dtype=torch.float32)
    first, second = (run(backend, operator, tensors, options) for _ in range(2))
    atomic = backend.name == "triton" and operator in CONVOLUTIONS and backend.device == "cuda"
    assert all(
        torch.equal(a, b) for n, (a, b) in enumerate(zip(first, second, strict=True)) if n != 1 or not atomic
    )


@pytest.mark.parametrize("backend", [b for b in BACKENDS if torch.float64 not in b.dtypes], ids=str)
@each_operator
def test_other_dtypes_are_refused_with_the_reason(backend, operator):
    tensors, options = operator.case(dtype=torch.float64)
    known = ", ".join(str(dtype).removeprefix("torch.") for dtype in backend.dtypes)
    with computing(backend), pytest.raises(RuntimeError, match=rf"'{backend.name}'.*{known}, got float64"):
        operator.function(*[t.to(backend.device) for t in tensors], **options)


@every_backend
@each_operator
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_operators_do_not_ask_for_torch_s_default_dtype(backend, operator, default):
    tensors, options = operator.case(1, (3, 4), (2, 2), dtype=backend.dtype)
    expected = run(backend, operator, tensors, options)
    torch.set_default_dtype(default)
    try:
        actual = run(backend, operator, tensors, options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, e) and a.dtype == e.dtype for a, e in zip(actual, expected, strict=True))
