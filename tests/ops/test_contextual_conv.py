"""`contextual_conv2d` against a brute-force loop and, with gradients, `torchvision.ops.deform_conv2d`."""

import itertools

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from _op_cases import (
    ALL,
    LOW_PRECISION,
    NAMES,
    PLAIN,
    contextual_case,
    every_kind,
    every_subset,
    on_cpu_in_double,
)
from hypothesis import given
from hypothesis import strategies as st

from _oracle import (
    DEVICES,
    assert_close,
    contextual_conv2d_loops,
    contextual_conv2d_torchvision,
    in_nan_buffer,
    layouts,
    output_size,
    outputs_and_gradients,
    per_sample_weight,
)
from ctxvision.ops import contextual_conv2d


@st.composite
def cases(draw):
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(draw(st.integers(n, n + 3)) for n in smallest)
    groups = draw(st.integers(1, 3))
    kind = (groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), groups)
    present = PLAIN | draw(st.frozensets(st.sampled_from(NAMES[2:])))
    spread = draw(st.sampled_from([0.0, 0.5, 3.0, 1e4]))
    return contextual_case(
        kind,
        draw(st.integers(1, 2)),
        kernel,
        size,
        stride,
        padding,
        dilation,
        present,
        spread,
        seed=draw(st.integers(0, 99)),
    )


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("device", DEVICES)
@given(cases())
def test_any_geometry_equals_the_loops(device, case):
    tensors, options = case
    y = contextual_conv2d(*[t if t is None else t.to(device) for t in tensors], **options)
    assert_close(y, contextual_conv2d_loops(*tensors, **options), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@given(cases())
def test_any_geometry_equals_torchvision_with_gradients(device, case):
    tensors, options = case
    moved = [t if t is None else t.to(device) for t in tensors]
    actual = outputs_and_gradients(contextual_conv2d, moved, **options)
    expected = outputs_and_gradients(contextual_conv2d_torchvision, tensors, **options)
    assert_close(actual, expected, torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@every_kind
@every_subset
def test_every_combination_of_arguments(device, kind, present):
    tensors, options = contextual_case(kind, size=(7, 5), stride=2, present=present, device=device)
    actual = outputs_and_gradients(contextual_conv2d, tensors, **options)
    expected = outputs_and_gradients(contextual_conv2d_torchvision, on_cpu_in_double(tensors), **options)
    assert_close(actual, expected, torch.float64)
    assert_close(actual[0], contextual_conv2d_loops(*tensors, **options), torch.float64)


# sizes of the networks, and channel counts around the width of a vector register
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *LOW_PRECISION], ids=str)
@pytest.mark.parametrize("present", [ALL, ALL - {"mask"}, ALL - {"offset", "mask"}], ids=["all", "paper", "grid"])
@pytest.mark.parametrize(
    ("kind", "kernel", "padding", "stride"),
    [
        ((24, 24, 24), (7, 7), 3, 1),
        ((33, 33, 33), (3, 3), 1, 1),
        ((17, 17, 17), (3, 5), (1, 2), 2),
        ((16, 24, 1), (3, 3), 1, 2),
        ((32, 32, 4), (3, 3), 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_network_shapes_in_every_dtype(device, dtype, present, kind, kernel, padding, stride, channels_last):
    tensors, options = contextual_case(
        kind, 2, kernel, (9, 8), stride, padding, present=present, spread=1.0, dtype=dtype, device=device
    )
    if channels_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, kind[1], *output_size((9, 8), kernel, stride, padding, 1)).to(dtype)
    actual = outputs_and_gradients(contextual_conv2d, tensors, grad=grad, **options)
    assert all(t.dtype == dtype for t in actual)
    expected = outputs_and_gradients(
        contextual_conv2d_torchvision, on_cpu_in_double(tensors), grad=grad, **options
    )
    if dtype == torch.float16 and device == "cpu" and "offset" not in present:
        # torch's own convolution, whose backward accumulates in float16 on the CPU
        actual, expected = actual[:1], expected[:1]
    assert_close(actual, expected, dtype)


@every_kind
def test_zero_offsets_without_mask_are_a_convolution(kind):
    (x, weight, _, _, _, bias), options = contextual_case(kind, padding=(1, 2), stride=(2, 1), dilation=(1, 2))
    offset = x.new_zeros(2, 18, *output_size((5, 6), (3, 3), (2, 1), (1, 2), (1, 2)))
    expected = outputs_and_gradients(F.conv2d, [x, weight, bias], **options)

    def without_prior(x, weight, bias, **options):
        return contextual_conv2d(x, weight, offset, None, None, bias, **options)

    assert_close(outputs_and_gradients(without_prior, [x, weight, bias], **options), expected, torch.float64)
    y = contextual_conv2d(x, weight, None, None, None, bias, **options)
    assert_close(y, expected[0], torch.float64)


@every_kind
@pytest.mark.parametrize("sampled", [False, True], ids=["grid", "zero-offset"])
def test_weight_offsets_are_a_kernel_per_sample(kind, sampled):
    (x, weight, _, weight_offset, _, bias), options = contextual_case(kind)
    offset = x.new_zeros(2, 18, 5, 6) if sampled else None
    kernels = per_sample_weight(weight, weight_offset, options["groups"])
    expected = torch.cat(
        [F.conv2d(x[b : b + 1], kernels[b], bias, padding=1, groups=options["groups"]) for b in range(2)]
    )
    assert_close(
        contextual_conv2d(x, weight, offset, weight_offset, None, bias, **options), expected, torch.float64
    )


def test_weight_offsets_are_indexed_by_input_channel():
    # one input channel is on; only its weight offset may be seen, by every output channel of its group
    x = torch.zeros(1, 4, 1, 1, dtype=torch.float64)
    x[0, 2] = 1
    weight_offset = torch.tensor([3.0, 5.0, 7.0, 11.0], dtype=torch.float64).view(1, 4, 1, 1)
    y = contextual_conv2d(x, torch.zeros(6, 2, 1, 1).double(), None, weight_offset, groups=2)
    assert y.flatten().tolist() == [0, 0, 0, 7, 7, 7]


def test_offsets_are_vertical_first():
    x = torch.arange(12, dtype=torch.float64).view(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    offset[:, 0] = 1
    y = contextual_conv2d(x, torch.ones(1, 1, 1, 1).double(), offset)
    assert y[0, 0].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 0, 0, 0]]
    y = contextual_conv2d(x, torch.ones(1, 1, 1, 1).double(), offset.flip(1))
    assert y[0, 0].tolist() == [[1, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]


# ---------------------------------------------------------------------------------------- where samples fall


def at_positions(positions, size=(3, 4), dtype=torch.float64, device="cpu"):
    """A 1x1 depthwise case whose samples lie exactly at `positions`, [(row, column), ...]."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=generator).to(device, dtype)
    weight = torch.randn(2, 1, 1, 1, dtype=torch.float64, generator=generator).to(device, dtype)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    grid = torch.stack([rows, columns]).double().flatten(1)  # (2, H W)
    count = grid.shape[1]
    padded = positions + [(0.0, 0.0)] * (-len(positions) % count)
    targets = torch.tensor(padded, dtype=torch.float64).view(-1, count, 2)  # (B, H W, 2)
    offset = (targets.transpose(1, 2) - grid).view(-1, 2, *size).to(device, dtype)
    batch = offset.shape[0]
    mask = torch.linspace(0.5, 1.5, batch * count).view(batch, 1, *size).to(device, dtype)
    return [x.expand(batch, -1, -1, -1).contiguous(), weight, offset, None, mask, None], {"groups": 2}


@pytest.mark.parametrize("device", DEVICES)
def test_integer_and_border_positions_follow_torchvision_with_gradients(device):
    # integers from -2 to size + 1, so the borders -1 and H, W, and points beside them
    def axis(n):
        return [p + e for p in range(-2, n + 2) for e in (-0.25, 0.0, 0.25)]

    tensors, options = at_positions(list(itertools.product(axis(3), axis(4))), device=device)
    actual = outputs_and_gradients(contextual_conv2d, tensors, **options)
    expected = outputs_and_gradients(contextual_conv2d_torchvision, on_cpu_in_double(tensors), **options)
    assert_close(actual, expected, torch.float64)
    assert_close(actual[0], contextual_conv2d_loops(*on_cpu_in_double(tensors), **options), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("far", [100.0, 3e9, 1e19, 1e30])
def test_samples_far_outside_are_zero_with_zero_gradients(device, dtype, far):
    positions = [(far, 0.0), (-far, 0.0), (0.0, far), (0.0, -far), (far, -far), (-far, -far)]
    tensors, options = at_positions(positions, (2, 3), dtype, device)
    results = outputs_and_gradients(contextual_conv2d, tensors, **options)
    assert len(results) == 5
    assert not any(t.any() for t in results), "a sample outside the image has a value or a gradient"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@every_kind
def test_infinite_and_nan_offsets_touch_their_own_position_only(device, bad, kind):
    tensors, options = contextual_case(kind, device=device)
    expected = outputs_and_gradients(contextual_conv2d, tensors, **options)
    tensors[2][0, 0, 2, 3] = tensors[2][1, 7, 0, 0] = bad
    actual = outputs_and_gradients(contextual_conv2d, tensors, **options)  # must not crash
    for t in (*actual[:1], *expected[:1]):
        t[0, :, 2, 3] = t[1, :, 0, 0] = 0
    assert_close(actual[0], expected[0], torch.float64)


@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_infinite_offsets_sample_zero_like_torchvision(infinity):
    tensors, options = contextual_case()
    tensors[2][0, 0, 2, 3] = tensors[2][1, 7, 0, 0] = infinity
    expected = contextual_conv2d_torchvision(*tensors, **options)
    assert expected.isfinite().all()
    assert_close(contextual_conv2d(*tensors, **options), expected, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_positions_are_not_rounded_to_half_precision(dtype):
    # at column 600 the spacing of float16 is 0.5 and that of bfloat16 is 4
    tensors, options = contextual_case((2, 2, 2), 1, (1, 3), (2, 600), padding=(0, 1), dtype=dtype, spread=1.0)
    grad = torch.randn(1, 2, 2, 600).to(dtype)
    actual = outputs_and_gradients(contextual_conv2d, tensors, grad=grad, **options)
    doubles = on_cpu_in_double(tensors)
    expected = outputs_and_gradients(contextual_conv2d_torchvision, doubles, grad=grad, **options)
    assert_close(actual, expected, dtype)


# ---------------------------------------------------------------------------------- what is read and written


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "present", [ALL, ALL - {"offset"}, ALL - {"offset", "mask"}], ids=["sampled", "mask", "grid"]
)
def test_pixels_that_no_tap_reads_do_not_matter(present, channels_last):
    tensors, options = contextual_case(kernel=(1, 1), size=(7, 9), stride=3, padding=0, present=present)
    if "offset" in present:  # reads rows and columns 3i and 3i + 1
        tensors[2] = torch.full_like(tensors[2], 0.5)
    expected = outputs_and_gradients(contextual_conv2d, tensors, **options)
    unread = torch.zeros(7, 9, dtype=torch.bool)
    unread[2::3], unread[:, 2::3] = True, True
    x = tensors[0].masked_fill(unread, torch.nan)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    actual = outputs_and_gradients(contextual_conv2d, [x, *tensors[1:]], **options)
    assert_close(actual, expected, torch.float64)
    assert not actual[1][..., unread].any(), "an unread pixel has a gradient"


def test_samples_outside_a_nan_image_are_zero():
    # no clamped read times zero
    positions = [
        (-1.5, 0.0),
        (-7.0, 2.0),
        (0.0, -1.5),
        (1.0, -7.0),
        (3.0, 1.0),
        (3.5, 1.0),
        (1.0, 4.0),
        (1.0, 4.5),
    ]
    tensors, options = at_positions([*positions, (-9.0, -9.0), (9.0, 9.0), (-9.0, 9.0), (9.0, -9.0)])
    tensors[0] = torch.full_like(tensors[0], torch.nan)
    results = outputs_and_gradients(contextual_conv2d, tensors, **options)
    assert not any(t.any() for t in results)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@every_kind
def test_memory_around_the_tensors_is_not_read(kind, channels_last):
    tensors, options = contextual_case(kind, size=(5, 5), stride=2)
    expected = outputs_and_gradients(contextual_conv2d, tensors, **options)
    if channels_last:
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    surrounded = [in_nan_buffer(t) for t in tensors]
    assert_close(outputs_and_gradients(contextual_conv2d, surrounded, **options), expected, torch.float64)


@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}, PLAIN], ids=["all", "grid", "plain"])
def test_no_argument_is_modified(present):
    tensors, options = contextual_case(present=present)
    before = [None if t is None else t.clone() for t in tensors]
    leaves = [None if t is None else t.requires_grad_() for t in tensors]
    y = contextual_conv2d(*leaves, **options)
    saved = y.detach().clone()
    grad = torch.ones_like(y)
    y.backward(grad)
    assert all(torch.equal(a, b) for a, b in zip(leaves, before, strict=True) if a is not None)
    assert torch.equal(y, saved)
    assert torch.equal(grad, torch.ones_like(grad))


@every_kind
@pytest.mark.parametrize("which", range(6), ids=NAMES)
@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}], ids=["all", "grid"])
def test_strides_of_the_arguments_do_not_matter(which, kind, present):
    if NAMES[which] not in present:
        return
    tensors, options = contextual_case(kind, size=(5, 6), stride=2, present=present)
    expected = outputs_and_gradients(contextual_conv2d, tensors, **options)
    for name, other in layouts(tensors[which]):
        varied = [other if n == which else t for n, t in enumerate(tensors)]
        assert_close(outputs_and_gradients(contextual_conv2d, varied, **options), expected, torch.float64, name)


def test_expanded_arguments_and_gradient():
    tensors, options = contextual_case(batch=1)
    per_image = [n not in ("weight", "bias") for n in NAMES]
    repeated = [t.repeat(3, 1, 1, 1) if p else t for t, p in zip(tensors, per_image, strict=True)]
    expanded = [t.expand(3, -1, -1, -1) if p else t for t, p in zip(tensors, per_image, strict=True)]
    expected = outputs_and_gradients(contextual_conv2d, repeated, **options)
    assert_close(outputs_and_gradients(contextual_conv2d, expanded, **options), expected, torch.float64)
    # the gradient of sum() is an expanded scalar
    leaves = [t.requires_grad_() for t in contextual_case()[0]]
    y = contextual_conv2d(*leaves, **options)
    from_sum = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    assert_close(from_sum, torch.autograd.grad(y, leaves, torch.ones_like(y)), torch.float64)


@every_kind
@pytest.mark.parametrize("present", [ALL, ALL - {"offset", "mask"}, PLAIN], ids=["all", "grid", "plain"])
def test_channels_last_is_kept(kind, present):
    tensors, options = contextual_case(kind, present=present)
    assert contextual_conv2d(*tensors, **options).is_contiguous()
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    y = contextual_conv2d(*tensors, **options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
