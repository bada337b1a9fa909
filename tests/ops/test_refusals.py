"""What both operators refuse, and that the message names both shapes."""

import pytest
import torch
from _op_cases import NAMES, aggregation_case, contextual_case

from ctxvision.ops import contextual_conv2d, local_aggregation

# ----------------------------------------------------------------------------------------- local aggregation


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options"),
    [
        ((2, 4, 5, 5), (2, 2, 9, 4, 5), {}),  # height
        ((2, 4, 5, 5), (2, 2, 9, 5, 6), {}),  # width
        ((2, 4, 5, 5), (2, 2, 9, 2, 2), {"stride": 2}),  # rounded down: the published CUDA kernel's mistake
        ((2, 4, 5, 5), (2, 2, 9, 5, 5), {"padding": 0}),
        ((2, 4, 5, 5), (2, 2, 9, 5, 5), {"padding": 1, "dilation": 2}),
        ((2, 4, 2, 2), (2, 2, 9, 0, 0), {"padding": 0}),  # no window fits
        ((2, 4, 2, 2), (2, 2, 25, 1, 1), {"padding": 0}),
        ((2, 4, 5, 5), (2, 3, 9, 5, 5), {}),  # channels and groups
        ((2, 4, 5, 5), (2, 8, 9, 5, 5), {}),
        ((2, 4, 5, 5), (2, 0, 9, 5, 5), {}),
        ((2, 4, 5, 5), (2, 2, 8, 5, 5), {}),  # taps
        ((2, 4, 5, 5), (2, 2, 0, 5, 5), {}),
        ((2, 4, 5, 5), (1, 2, 9, 5, 5), {}),  # batch: no broadcasting
        ((2, 4, 5, 5), (3, 2, 9, 5, 5), {}),
        ((4, 5, 5), (1, 2, 9, 5, 5), {}),  # dimensions
        ((2, 4, 5, 5), (2, 2, 3, 3, 5, 5), {}),
        ((2, 4, 5, 5), (2, 9, 5, 5), {}),
    ],
)
def test_aggregation_refuses_shapes_that_do_not_fit_by_name(x_shape, weight_shape, options):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        local_aggregation(torch.zeros(x_shape), torch.zeros(weight_shape), **options)
    assert str(x_shape) in str(refusal.value)
    assert str(weight_shape) in str(refusal.value)


def test_aggregation_s_refusal_of_a_size_says_which_is_wanted():
    with pytest.raises(ValueError, match=r"\(2 ?, ?3\)|2 ?[×x] ?3"):
        local_aggregation(torch.zeros(1, 4, 3, 5), torch.zeros(1, 2, 9, 1, 2), stride=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grouping": "striped"}, "grouping"),
        ({"stride": 0}, "stride"),
        ({"stride": (1, 0)}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"padding": -1}, "padding"),
        ({"padding": (1, -1)}, "padding"),
        ({"dilation": 0}, "dilation"),
        ({"dilation": (-1, 1)}, "dilation"),
    ],
)
def test_aggregation_refuses_options_out_of_range(options, message):
    x, weight = aggregation_case()
    with pytest.raises(ValueError, match=message):
        local_aggregation(x, weight, **options)


def test_aggregation_refuses_mixed_dtypes_and_devices():
    x, weight = aggregation_case()
    with pytest.raises(ValueError, match=r"float64.*float32"):
        local_aggregation(x, weight.float())
    with pytest.raises(ValueError, match=r"cpu.*meta"):
        local_aggregation(x, weight.to("meta"))


@pytest.mark.parametrize("stride", [2.0, (2.0, 2.0), "2", True, (1, 2, 3)])
def test_a_stride_that_is_no_whole_number_is_named(stride):
    with pytest.raises(ValueError, match="stride must be one or two integers >= 1"):
        local_aggregation(torch.randn(1, 4, 4, 4), torch.randn(1, 2, 9, 2, 2), stride=stride)


# ------------------------------------------------------------------------------------ contextual convolution

SHAPES = {
    "x": (2, 4, 5, 6),
    "weight": (6, 2, 3, 3),
    "sampling_offset": (2, 18, 5, 6),
    "weight_offset": (2, 4, 3, 3),
    "mask": (2, 9, 5, 6),
    "bias": (6,),
}


def test_the_shapes_below_would_fit():
    y = contextual_conv2d(*[torch.zeros(s) for s in SHAPES.values()], padding=1, groups=2)
    assert y.shape == (2, 6, 5, 6)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("x", (4, 5, 6), {}),  # dimensions
        ("x", (1, 2, 4, 5, 6), {}),
        ("weight", (6, 2, 9), {}),
        ("x", (2, 6, 5, 6), {}),  # channels
        ("weight", (6, 4, 3, 3), {}),
        ("weight", (5, 2, 3, 3), {}),  # output channels and groups
        ("x", (2, 4, 5, 6), {"groups": 0}),
        ("x", (2, 4, 5, 6), {"groups": 4}),
        ("weight", (6, 2, 9, 3), {"padding": 0}),  # no window fits
        ("weight", (6, 2, 0, 3), {}),
        ("sampling_offset", (2, 18, 5, 5), {}),
        ("sampling_offset", (2, 18, 3, 4), {"padding": 0}),  # 3 x 4 is right here, but the mask is not
        ("sampling_offset", (2, 9, 5, 6), {}),
        ("sampling_offset", (1, 18, 5, 6), {}),
        ("sampling_offset", (2, 36, 5, 6), {}),  # two offset groups
        ("sampling_offset", (18, 5, 6), {}),
        ("weight_offset", (2, 2, 3, 3), {}),
        ("weight_offset", (2, 4, 9), {}),
        ("weight_offset", (1, 4, 3, 3), {}),
        ("weight_offset", (4, 3, 3), {}),
        ("mask", (2, 18, 5, 6), {}),
        ("mask", (2, 9, 5, 5), {}),
        ("mask", (1, 9, 5, 6), {}),
        ("bias", (5,), {}),
        ("bias", (1,), {}),
        ("bias", (6, 1), {}),
    ],
)
def test_convolution_refuses_shapes_that_do_not_fit_by_name(name, shape, options):
    shapes = SHAPES | {name: shape}
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        contextual_conv2d(*[torch.zeros(s) for s in shapes.values()], **{"padding": 1, "groups": 2} | options)
    culprit = "mask" if options == {"padding": 0} and name == "sampling_offset" else name
    other = "weight" if culprit == "x" else "x"
    assert culprit in str(refusal.value)
    assert str(shapes[culprit]) in str(refusal.value)
    assert str(shapes[other]) in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride"),
        ({"stride": (1, 0)}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"padding": -1}, "padding"),
        ({"padding": (1, -1)}, "padding"),
        ({"dilation": 0}, "dilation"),
        ({"dilation": (-1, 1)}, "dilation"),
        ({"groups": -4}, "groups"),
    ],
)
def test_convolution_refuses_options_out_of_range(options, message):
    tensors, fitting = contextual_case()
    with pytest.raises(ValueError, match=message):
        contextual_conv2d(*tensors, **fitting | options)


@pytest.mark.parametrize("which", range(1, 6), ids=NAMES[1:])
def test_convolution_refuses_mixed_dtypes_and_devices(which):
    tensors, options = contextual_case()
    mixed = [t.float() if n == which else t for n, t in enumerate(tensors)]
    with pytest.raises(ValueError, match=rf"float64.*{NAMES[which]}.*float32|{NAMES[which]}.*float32.*float64"):
        contextual_conv2d(*mixed, **options)
    mixed = [t.to("meta") if n == which else t for n, t in enumerate(tensors)]
    with pytest.raises(ValueError, match=rf"cpu.*{NAMES[which]}.*meta|{NAMES[which]}.*meta.*cpu"):
        contextual_conv2d(*mixed, **options)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_convolution_refuses_other_dtypes(dtype):
    tensors, options = contextual_case()
    with pytest.raises(ValueError, match=str(dtype)):
        contextual_conv2d(*[t.to(dtype) for t in tensors], **options)
