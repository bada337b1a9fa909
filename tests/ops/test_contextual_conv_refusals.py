"""What `contextual_conv2d` refuses, and that the message names both shapes."""

import pytest
import torch
import torch._dynamo.testing
from _op_cases import NAMES, contextual_case

from ctxvision.ops import contextual_conv2d

SHAPES = {
    "x": (2, 4, 5, 6),
    "weight": (6, 2, 3, 3),
    "offset": (2, 18, 5, 6),
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
        ("offset", (2, 18, 5, 5), {}),
        ("offset", (2, 18, 3, 4), {"padding": 0}),  # 3 x 4 is right here, but the mask is not
        ("offset", (2, 9, 5, 6), {}),
        ("offset", (1, 18, 5, 6), {}),
        ("offset", (2, 36, 5, 6), {}),  # two offset groups
        ("offset", (18, 5, 6), {}),
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
def test_shapes_that_do_not_fit_are_refused_by_name(name, shape, options):
    shapes = SHAPES | {name: shape}
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        contextual_conv2d(*[torch.zeros(s) for s in shapes.values()], **{"padding": 1, "groups": 2} | options)
    culprit = "mask" if options == {"padding": 0} and name == "offset" else name
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
def test_options_out_of_range_are_refused(options, message):
    tensors, fitting = contextual_case()
    with pytest.raises(ValueError, match=message):
        contextual_conv2d(*tensors, **fitting | options)


@pytest.mark.parametrize("which", range(1, 6), ids=NAMES[1:])
def test_mixed_dtypes_and_devices_are_refused(which):
    tensors, options = contextual_case()
    mixed = [t.float() if n == which else t for n, t in enumerate(tensors)]
    with pytest.raises(ValueError, match=rf"float64.*{NAMES[which]}.*float32|{NAMES[which]}.*float32.*float64"):
        contextual_conv2d(*mixed, **options)
    mixed = [t.to("meta") if n == which else t for n, t in enumerate(tensors)]
    with pytest.raises(ValueError, match=rf"cpu.*{NAMES[which]}.*meta|{NAMES[which]}.*meta.*cpu"):
        contextual_conv2d(*mixed, **options)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_other_dtypes_are_refused(dtype):
    tensors, options = contextual_case()
    with pytest.raises(ValueError, match=str(dtype)):
        contextual_conv2d(*[t.to(dtype) for t in tensors], **options)
