"""Both operators against their definitions, one loop per index, and against what they are in special cases."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from _battery import every_operator
from _op_cases import (
    GROUPINGS,
    NAMES,
    PLAIN,
    aggregation_case,
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
    local_aggregation_loops,
    local_aggregation_unfold,
    output_size,
    outputs_and_gradients,
    per_sample_weight,
)
from ctxvision.ops import contextual_conv2d, local_aggregation


@st.composite
def aggregations(draw):
    k = draw(st.integers(1, 4))
    stride, dilation = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(1, 2)] * 2))
    padding = draw(st.none() | st.tuples(*[st.integers(0, 4)] * 2))
    pads = tuple(d * (k - 1) // 2 for d in dilation) if padding is None else padding
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for d, p in zip(dilation, pads, strict=True)]
    size = tuple(draw(st.integers(n, n + 5)) for n in smallest)
    groups, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    tensors = aggregation_case(
        draw(st.integers(1, 2)), groups * shared, groups, k, size, stride, padding, dilation,
        seed=draw(st.integers(0, 99)),
    )  # fmt: skip
    grouping = draw(st.sampled_from(GROUPINGS))
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation, "grouping": grouping}


@st.composite
def convolutions(draw):
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(draw(st.integers(n, n + 3)) for n in smallest)
    groups = draw(st.integers(1, 3))
    kind = (groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), groups)
    present = PLAIN | draw(st.frozensets(st.sampled_from(NAMES[2:])))
    return contextual_case(
        kind, draw(st.integers(1, 2)), kernel, size, stride, padding, dilation, present,
        draw(st.sampled_from([0.0, 0.5, 3.0, 1e4])), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("function", "problems", "loops", "oracle"),
    [
        (local_aggregation, aggregations(), local_aggregation_loops, local_aggregation_unfold),
        (contextual_conv2d, convolutions(), contextual_conv2d_loops, contextual_conv2d_torchvision),
    ],
    ids=["aggregation", "convolution"],
)
@given(data=st.data())
def test_any_geometry_equals_the_loops_and_has_the_oracle_s_gradients(
    device, function, problems, loops, oracle, data
):
    tensors, options = data.draw(problems)
    moved = [t if t is None else t.to(device) for t in tensors]
    actual = outputs_and_gradients(function, moved, **options)
    assert_close(actual, outputs_and_gradients(oracle, tensors, **options), torch.float64)
    assert_close(actual[0], loops(*tensors, **options), torch.float64)


@every_operator
def test_integers_and_pairs_mean_the_same(operator):
    tensors, options = operator.case(stride=2, padding=3, dilation=2)
    pairs = {name: (value, value) for name, value in options.items() if name in ("stride", "padding", "dilation")}
    assert torch.equal(operator.function(*tensors, **options), operator.function(*tensors, **options | pairs))


# ----------------------------------------------------------------------------------------- local aggregation alone


def test_groupings_are_permutations_of_each_other():
    x, weight = aggregation_case(channels=6, groups=3)
    order = torch.arange(6).view(3, 2).t().reshape(-1)  # interleaved channel c holds blocked channel order[c]
    interleaved = local_aggregation(x[:, order], weight, grouping="interleaved")
    assert_close(interleaved, local_aggregation(x, weight)[:, order], torch.float64)


def test_a_constant_weight_map_is_a_depthwise_convolution():
    x, _ = aggregation_case(channels=4)
    kernel = torch.randn(4, 9, dtype=torch.float64)
    weight = kernel.view(1, 4, 9, 1, 1).expand(2, 4, 9, 5, 7)
    expected = F.conv2d(x, kernel.view(4, 1, 3, 3), padding=1, groups=4)
    assert_close(local_aggregation(x, weight), expected, torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 5), (7, 9), (13, 4)])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_odd_sizes_with_stride_two_follow_the_convolution_formula(size, k):
    x, weight = aggregation_case(size=size, k=k, stride=2)
    assert weight.shape[-2:] == tuple((n + 1) // 2 for n in size)
    y = local_aggregation(x, weight, stride=2)
    assert_close(y, local_aggregation_loops(x, weight, stride=2), torch.float64)


def test_a_window_that_lies_in_the_padding_gives_zero():
    x, weight = aggregation_case(size=(3, 3), k=3, padding=4)
    y = local_aggregation(x, weight, padding=4)
    assert y.shape[-2:] == (9, 9)
    assert not y[..., :2, :].any()
    assert not y[..., -2:].any()
    assert_close(y, local_aggregation_loops(x, weight, padding=4), torch.float64)


# ------------------------------------------------------------------------------------ contextual convolution alone


@pytest.mark.parametrize("device", DEVICES)
@every_kind
@every_subset
def test_every_combination_of_arguments(device, kind, present):
    tensors, options = contextual_case(kind, size=(7, 5), stride=2, present=present, device=device)
    actual = outputs_and_gradients(contextual_conv2d, tensors, **options)
    expected = outputs_and_gradients(contextual_conv2d_torchvision, on_cpu_in_double(tensors), **options)
    assert_close(actual, expected, torch.float64)
    assert_close(actual[0], contextual_conv2d_loops(*tensors, **options), torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@every_kind
@every_subset
def test_empty_batch(device, kind, present):
    tensors, options = contextual_case(kind, batch=0, stride=2, present=present, device=device)
    y, *gradients = outputs_and_gradients(contextual_conv2d, tensors, **options)
    assert y.shape == (0, kind[1], 3, 3)
    assert [g.shape for g in gradients] == [t.shape for t in tensors if t is not None]
    assert not any(g.any() for g in gradients)


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


@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_infinite_offsets_sample_zero_like_torchvision(infinity):
    tensors, options = contextual_case()
    tensors[2][0, 0, 2, 3] = tensors[2][1, 7, 0, 0] = infinity
    expected = contextual_conv2d_torchvision(*tensors, **options)
    assert expected.isfinite().all()
    assert_close(contextual_conv2d(*tensors, **options), expected, torch.float64)


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
