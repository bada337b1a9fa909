"""`local_aggregation` against a brute-force loop (values) and the unfold form (gradients)."""

import pytest
import torch
import torch._dynamo.testing
from _op_cases import GROUPINGS, LOW_PRECISION, aggregation_case
from hypothesis import given
from hypothesis import strategies as st

from _oracle import (
    DEVICES,
    assert_close,
    in_nan_buffer,
    layouts,
    local_aggregation_loops,
    local_aggregation_unfold,
    outputs_and_gradients,
)
from ctxvision.ops import local_aggregation


@st.composite
def cases(draw):
    k = draw(st.integers(1, 4))
    stride, dilation = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(1, 2)] * 2))
    padding = draw(st.none() | st.tuples(*[st.integers(0, 4)] * 2))
    pads = tuple(d * (k - 1) // 2 for d in dilation) if padding is None else padding
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for d, p in zip(dilation, pads, strict=True)]
    size = tuple(draw(st.integers(n, n + 5)) for n in smallest)
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    tensors = aggregation_case(
        draw(st.integers(1, 2)),
        groups * per_group,
        groups,
        k,
        size,
        stride,
        padding,
        dilation,
        seed=draw(st.integers(0, 99)),
    )
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "grouping": draw(st.sampled_from(GROUPINGS)),
    }
    return tensors, options


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("device", DEVICES)
@given(cases())
def test_any_geometry_equals_the_loops(device, case):
    (x, weight), options = case
    y = local_aggregation(x.to(device), weight.to(device), **options)
    assert_close(y, local_aggregation_loops(x, weight, **options), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@given(cases())
def test_any_geometry_has_the_gradients_of_unfold(device, case):
    (x, weight), options = case
    actual = outputs_and_gradients(local_aggregation, [x.to(device), weight.to(device)], **options)
    expected = outputs_and_gradients(local_aggregation_unfold, [x, weight], **options)
    assert_close(actual, expected, torch.float64)


# widths around 8, 16 and 32 channels per group: vector kernels have remainders there
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *LOW_PRECISION], ids=str)
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize(
    ("groups", "per_group", "k", "stride"),
    [(2, 16, 7, 1), (3, 16, 7, 2), (1, 17, 3, 1), (8, 8, 3, 1), (5, 1, 5, 2), (1, 33, 3, 2), (40, 3, 3, 1)],
)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_network_shapes_in_every_dtype(device, dtype, grouping, groups, per_group, k, stride, channels_last):
    x, weight = aggregation_case(2, groups * per_group, groups, k, (9, 11), stride, dtype=dtype, device=device)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    options = {"stride": stride, "grouping": grouping}
    grad = torch.randn(x.shape[:2] + weight.shape[-2:]).to(dtype)
    actual = outputs_and_gradients(local_aggregation, [x, weight], grad=grad, **options)
    assert all(t.dtype == dtype for t in actual)
    doubles = [x.double().cpu(), weight.double().cpu()]
    expected = outputs_and_gradients(local_aggregation_unfold, doubles, grad=grad, **options)
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 5), (7, 9), (13, 4)])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_odd_sizes_with_stride_two_follow_the_convolution_formula(size, k):
    x, weight = aggregation_case(size=size, k=k, stride=2)
    assert weight.shape[-2:] == tuple((n + 1) // 2 for n in size)
    y = local_aggregation(x, weight, stride=2)
    assert_close(y, local_aggregation_loops(x, weight, stride=2), torch.float64)


def test_groupings_are_permutations_of_each_other():
    x, weight = aggregation_case(channels=6, groups=3)
    order = torch.arange(6).view(3, 2).t().reshape(-1)  # interleaved channel c holds blocked channel order[c]
    interleaved = local_aggregation(x[:, order], weight, grouping="interleaved")
    assert_close(interleaved, local_aggregation(x, weight)[:, order], torch.float64)


def test_integers_and_pairs_mean_the_same():
    x, weight = aggregation_case(stride=2, padding=3, dilation=2)
    assert torch.equal(
        local_aggregation(x, weight, stride=2, padding=3, dilation=2),
        local_aggregation(x, weight, stride=(2, 2), padding=(3, 3), dilation=(2, 2)),
    )


def test_a_constant_weight_map_is_a_depthwise_convolution():
    x, _ = aggregation_case(channels=4)
    kernel = torch.randn(4, 9, dtype=torch.float64)
    weight = kernel.view(1, 4, 9, 1, 1).expand(2, 4, 9, 5, 7)
    expected = torch.nn.functional.conv2d(x, kernel.view(4, 1, 3, 3), padding=1, groups=4)
    assert_close(local_aggregation(x, weight), expected, torch.float64)


# ---------------------------------------------------------------------------------- what is read and written


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_pixels_that_no_tap_reads_do_not_matter(grouping, channels_last):
    x, weight = aggregation_case(size=(7, 9), k=1, stride=2)
    poisoned = torch.full_like(x, torch.nan)
    poisoned[..., ::2, ::2] = x[..., ::2, ::2]
    if channels_last:
        poisoned = poisoned.contiguous(memory_format=torch.channels_last)
    actual = outputs_and_gradients(local_aggregation, [poisoned, weight], stride=2, grouping=grouping)
    expected = outputs_and_gradients(local_aggregation, [x, weight], stride=2, grouping=grouping)
    assert_close(actual, expected, torch.float64)
    unread = torch.ones(7, 9, dtype=torch.bool)
    unread[::2, ::2] = False
    assert not actual[1][..., unread].any(), "an unread pixel has a gradient"


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_memory_around_the_tensors_is_not_read(channels_last):
    x, weight = aggregation_case(size=(5, 5), k=3, stride=2)
    expected = outputs_and_gradients(local_aggregation, [x, weight], stride=2)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    surrounded = [in_nan_buffer(x), in_nan_buffer(weight)]
    assert_close(outputs_and_gradients(local_aggregation, surrounded, stride=2), expected, torch.float64)


def test_a_window_that_lies_in_the_padding_gives_zero():
    x, weight = aggregation_case(size=(3, 3), k=3, padding=4)
    y = local_aggregation(x, weight, padding=4)
    assert y.shape[-2:] == (9, 9)
    assert not y[..., :2, :].any()
    assert not y[..., -2:].any()
    assert_close(y, local_aggregation_loops(x, weight, padding=4), torch.float64)


@pytest.mark.parametrize("k", [1, 3])
def test_no_argument_is_modified(k):
    x, weight = aggregation_case(k=k)
    before = x.clone(), weight.clone()
    x.requires_grad_(), weight.requires_grad_()
    y = local_aggregation(x, weight)
    saved = y.detach().clone()
    grad = torch.ones_like(y)
    y.backward(grad)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])
    assert torch.equal(y, saved)
    assert torch.equal(grad, torch.ones_like(grad))
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@pytest.mark.parametrize("which", range(2))
def test_strides_of_the_arguments_do_not_matter(which):
    tensors = aggregation_case(channels=4, size=(5, 6), stride=2)
    expected = outputs_and_gradients(local_aggregation, tensors, stride=2)
    for name, other in layouts(tensors[which]):
        varied = [other if n == which else t for n, t in enumerate(tensors)]
        assert_close(outputs_and_gradients(local_aggregation, varied, stride=2), expected, torch.float64, name)


def test_expanded_arguments_and_gradient():
    x, weight = aggregation_case(batch=1)
    expected = outputs_and_gradients(
        local_aggregation, [x.repeat(3, 1, 1, 1), weight[:, :1].repeat(3, 2, 1, 1, 1)]
    )
    actual = outputs_and_gradients(
        local_aggregation, [x.expand(3, -1, -1, -1), weight[:, :1].expand(3, 2, -1, -1, -1)]
    )
    assert_close(actual, expected, torch.float64)
    # the gradient of sum() is an expanded scalar
    x, weight = (t.requires_grad_() for t in aggregation_case())
    y = local_aggregation(x, weight)
    from_sum = torch.autograd.grad(y.sum(), [x, weight], retain_graph=True)
    assert_close(from_sum, torch.autograd.grad(y, [x, weight], torch.ones_like(y)), torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
def test_channels_last_is_kept(stride):
    x, weight = aggregation_case(channels=6, size=(6, 5), stride=stride)
    assert local_aggregation(x, weight, stride=stride).is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = local_aggregation(x, weight, stride=stride)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
