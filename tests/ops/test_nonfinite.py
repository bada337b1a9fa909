"""NaN and infinity in any argument spread in the same way on every backend, as the READMEs say."""

import pytest
import torch
from _op_cases import GROUPINGS, KINDS, aggregation_case
from test_contextual_conv_native import RUNNABLE, case, in_layout, instructions, results

from _oracle import local_aggregation_unfold
from ctxvision.ops import contextual_conv2d, local_aggregation, use_backend
from ctxvision.ops.aggregation import cpu, reference
from ctxvision.ops.contextual_conv import cpu as contextual_cpu
from ctxvision.ops.contextual_conv import reference as contextual_reference

BAD = (torch.nan, torch.inf, -torch.inf)
SIZES = {  # k, size, stride, dilation, channels, groups: every loop of the kernels, and bands of rows
    "window": (3, (9, 7), 1, 1, 32, 2),
    "wide window": (7, (7, 7), 1, 1, 16, 1),
    "nothing but borders": (7, (2, 3), 1, 1, 8, 2),
    "any": (5, (9, 8), 2, 1, 6, 3),
    "dilated": (3, (6, 9), 1, 3, 48, 2),
    "bands": (3, (40, 40), 1, 1, 16, 1),
}


def kind_of(values):
    """0 for finite numbers, else which."""
    return values.isnan() * 1 + values.isposinf() * 2 + values.isneginf() * 3


def spoilt(values, seed):
    """A few numbers are not finite any more; the borders have most of them."""
    values, generator = values.clone(), torch.Generator().manual_seed(seed)
    for n, index in enumerate(torch.randint(values.numel(), (4,), generator=generator).tolist()):
        values.view(-1)[index] = BAD[(n + seed) % 3]
    return values


def assert_same_kinds(actual, expected):
    for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(kind_of(a), kind_of(e)), f"result {n}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["x", "weight", "grad"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("level", RUNNABLE)
def test_local_aggregation(level, size, which, dtype):
    k, shape, stride, dilation, channels, groups = size
    x, weight = aggregation_case(2, channels, groups, k, shape, stride, None, dilation, dtype=dtype)
    grad = torch.randn(*x.shape[:2], *weight.shape[3:]).to(dtype)
    tensors = {"x": x, "weight": weight, "grad": grad}
    tensors[which] = spoilt(tensors[which], seed=k)
    x, weight, grad = tensors.values()
    geometry = ((stride,) * 2, (dilation * (k - 1) // 2,) * 2, (dilation,) * 2)
    for layout in ("contiguous", "channels_last"):
        x, grad = in_layout(x, layout), in_layout(grad, layout)
        if layout == "channels_last":  # taps last
            weight = weight.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
        for interleaved in (False, True):
            with instructions(level):
                actual, expected = (
                    (
                        kernels.aggregate(x, weight, *geometry, interleaved),
                        kernels.input_grad(grad, weight, x.shape[2:], *geometry, interleaved),
                        kernels.weight_grad(x, grad, groups, k * k, *geometry, interleaved),
                    )
                    for kernels in (cpu, reference)
                )
            assert_same_kinds(actual, expected)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_tap_outside_is_zero_times_its_weight(backend, grouping, bad):
    x, weight = aggregation_case(1, 4, 2, dtype=torch.float32)
    weight[0, 1, 0, 0, 0] = bad  # the tap above and left of the first position
    x, weight = x.requires_grad_(), weight.requires_grad_()
    with use_backend(backend):
        y = local_aggregation(x, weight, grouping=grouping)
    assert torch.equal(kind_of(y), kind_of(local_aggregation_unfold(x, weight, grouping=grouping)))
    assert y.isnan().sum() == 2  # the channels of the group, there
    (of_x,) = torch.autograd.grad(y[:, :, 1:].sum(), x)
    assert of_x.isfinite().all()  # what lies outside has no gradient


def test_an_image_without_pixels_is_zeros_outside():
    weight = torch.zeros(1, 1, 9, 2, 3)
    weight[0, 0, 4, 1, 1] = torch.nan
    for backend in ("native", "torch"):
        with use_backend(backend):
            y = local_aggregation(torch.zeros(1, 2, 0, 1), weight, padding=(2, 2))
        assert torch.equal(kind_of(y), torch.tensor([[0, 0, 0], [0, 1, 0]]).expand(1, 2, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [*KINDS.values(), (1, 1, 1), (18, 18, 18), (1, 3, 1)], ids=str)
@pytest.mark.parametrize("level", RUNNABLE)
def test_contextual_convolution(level, kind, dtype):
    for which in range(7):
        spread = 2.0 * (which % 2)  # anywhere, or at whole positions
        tensors, geometry, grad = case(kind, 1, (2, 2), (4, 5), spread=spread, dtype=dtype, seed=which)
        if which < 6:
            tensors[which] = spoilt(tensors[which], which)
        else:
            grad = spoilt(grad, which)
        expected = results(contextual_reference, tensors, geometry, grad)
        with instructions(level):
            assert_same_kinds(results(contextual_cpu, tensors, geometry, grad), expected)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_what_the_contextual_readme_says(backend):
    ones, kernel, offset = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), torch.zeros(1, 18, 3, 3)
    with use_backend(backend):
        kernel[0, 0, 0, 0] = torch.nan  # outside for the first row and column, and NaN there as well
        assert contextual_conv2d(ones, kernel, offset, padding=1).isnan().all()
        kernel = torch.ones(1, 1, 3, 3)
        offset[0, 8, 1, 1] = torch.nan
        assert contextual_conv2d(ones, kernel, offset, padding=1).isnan().sum() == 1
        offset[0, 8, 1, 1] = torch.inf  # outside: zero
        assert contextual_conv2d(ones, kernel, offset, padding=1)[0, 0, 1, 1] == 8
        mask = torch.ones(1, 9, 3, 3)
        mask[0, 4, 1, 1] = torch.inf  # at a whole position three coefficients are zero
        assert contextual_conv2d(ones, kernel, torch.zeros(1, 18, 3, 3), None, mask, padding=1).isnan().sum() == 1
