"""The operators in standard ones, for exported graphs, against the operators themselves."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxvision.ops import contextual_conv2d, local_aggregation
from ctxvision.ops.aggregation import portable as aggregation
from ctxvision.ops.contextual_conv import portable as contextual


def pairs(lowest, highest):
    return st.tuples(st.integers(lowest, highest), st.integers(lowest, highest))


def out_size(size, kernel, stride, padding, dilation):
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(
    size=pairs(3, 9), kernel=st.sampled_from([1, 3, 5]), stride=pairs(1, 3), dilation=pairs(1, 2),
    groups=st.integers(1, 3), shared=st.integers(1, 3), interleaved=st.booleans(), batch=st.integers(1, 2),
)  # fmt: skip
def test_local_aggregation(size, kernel, stride, dilation, groups, shared, interleaved, batch):
    padding = tuple(d * (kernel - 1) // 2 for d in dilation)
    rows, columns = out_size(size, (kernel, kernel), stride, padding, dilation)
    x = torch.randn(batch, groups * shared, *size, dtype=torch.float64)
    weight = torch.randn(batch, groups, kernel**2, rows, columns, dtype=torch.float64)
    found = aggregation.aggregate(x, weight, stride, padding, dilation, interleaved)
    grouping = "interleaved" if interleaved else "blocked"
    expected = local_aggregation(x, weight, stride=stride, padding=padding, dilation=dilation, grouping=grouping)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    size=pairs(1, 7), kernel=pairs(1, 3), stride=pairs(1, 2), padding=pairs(0, 2), dilation=pairs(1, 2),
    kind=st.integers(0, 3), bends=st.booleans(), modulated=st.booleans(), with_bias=st.booleans(),
    far=st.sampled_from([None, 0.0, 2.0, 50.0, float("inf")]),
)  # fmt: skip
def test_contextual_conv(size, kernel, stride, padding, dilation, kind, bends, modulated, with_bias, far):
    groups, made = ((6, 6), (1, 4), (2, 4), (6, 12))[kind]  # depthwise, dense, grouped, with a multiplier
    rows, columns = out_size(size, kernel, stride, padding, dilation)
    if min(rows, columns) < 1:
        return
    options = {"dtype": torch.float64}
    taps = kernel[0] * kernel[1]
    x, weight = torch.randn(2, 6, *size, **options), torch.randn(made, 6 // groups, *kernel, **options)
    offset = None if far is None else torch.randn(2, 2 * taps, rows, columns, **options) * far
    weight_offset = torch.randn(2, 6, *kernel, **options) if bends else None
    mask = torch.rand(2, taps, rows, columns, **options) if modulated else None
    bias = torch.randn(made, **options) if with_bias else None
    found = contextual.contextual_conv(
        x, weight, offset, weight_offset, mask, bias, stride, padding, dilation, groups
    )
    expected = contextual_conv2d(
        x, weight, offset, weight_offset, mask=mask, bias=bias,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
