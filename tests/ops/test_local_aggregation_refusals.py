"""What `local_aggregation` refuses, and that the message names both shapes."""

import pytest
import torch
import torch._dynamo.testing
from _op_cases import aggregation_case

from ctxvision.ops import local_aggregation


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
def test_shapes_that_do_not_fit_are_refused_by_name(x_shape, weight_shape, options):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        local_aggregation(torch.zeros(x_shape), torch.zeros(weight_shape), **options)
    assert str(x_shape) in str(refusal.value)
    assert str(weight_shape) in str(refusal.value)


def test_the_size_refusal_says_which_size_is_wanted():
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
def test_options_out_of_range_are_refused(options, message):
    x, weight = aggregation_case()
    with pytest.raises(ValueError, match=message):
        local_aggregation(x, weight, **options)


def test_mixed_dtypes_and_devices_are_refused():
    x, weight = aggregation_case()
    with pytest.raises(ValueError, match=r"float64.*float32"):
        local_aggregation(x, weight.float())
    with pytest.raises(ValueError, match=r"cpu.*meta"):
        local_aggregation(x, weight.to("meta"))


@pytest.mark.parametrize("stride", [2.0, (2.0, 2.0), "2", True, (1, 2, 3)])
def test_a_stride_that_is_no_whole_number_is_named(stride):
    with pytest.raises(ValueError, match="stride must be one or two integers >= 1"):
        local_aggregation(torch.randn(1, 4, 4, 4), torch.randn(1, 2, 9, 2, 2), stride=stride)
