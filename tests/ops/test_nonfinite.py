"""NaN and infinity in any argument spread in the same way on every backend, as the READMEs say.

`test_triton_interpreter.py` runs this file once more in a process where Triton's interpreter is the only backend.
"""

import pytest
import torch
from _battery import (
    BACKENDS,
    INTERPRETED,
    aggregation_results,
    computing,
    convolution_case,
    convolution_results,
    every_backend,
    in_layout,
)
from _op_cases import KINDS, aggregation_case

from ctxvision.ops import local_aggregation
from ctxvision.ops._backend import kernels
from ctxvision.ops.aggregation import reference as aggregation_reference
from ctxvision.ops.contextual_conv import reference as convolution_reference

SPECIALISED = [backend for backend in BACKENDS if backend.name != "torch"]
every_kernel = pytest.mark.parametrize(
    ("backend", "dtype"), [(b, d) for b in SPECIALISED for d in b.dtypes if d != torch.float16], ids=str
)
BAD = (torch.nan, torch.inf, -torch.inf)
SIZES = {  # k, size, stride, dilation, channels, groups: every loop of the kernels, and bands of rows
    "window": (3, (9, 7), 1, 1, 32, 2),
    "wide window": (7, (7, 7), 1, 1, 16, 1),
    "nothing but borders": (7, (2, 3), 1, 1, 8, 2),
    "any": (5, (9, 8), 2, 1, 6, 3),
    "dilated": (3, (6, 9), 1, 3, 48, 2),
    "bands": (3, (40, 40), 1, 1, 16, 1),
}
KINDS_AND_WIDTHS = [*KINDS.values(), (1, 1, 1), (18, 18, 18), (1, 3, 1)]
if INTERPRETED:
    SIZES, KINDS_AND_WIDTHS = {"tiny": (3, (3, 4), 1, 1, 4, 2)}, list(KINDS.values())


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
        assert torch.equal(kind_of(a.cpu()), kind_of(e.cpu())), f"result {n}"


@every_kernel
@pytest.mark.parametrize("which", ["x", "weight", "grad"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_local_aggregation(backend, size, which, dtype):
    k, shape, stride, dilation, channels, groups = size
    x, weight = aggregation_case(2, channels, groups, k, shape, stride, None, dilation, dtype=dtype)
    grad = torch.randn(*x.shape[:2], *weight.shape[3:]).to(dtype)
    tensors = {"x": x, "weight": weight, "grad": grad}
    tensors[which] = spoilt(tensors[which], seed=k)
    x, weight, grad = (t.to(backend.device) for t in tensors.values())
    geometry = ((stride,) * 2, (dilation * (k - 1) // 2,) * 2, (dilation,) * 2)
    for layout in ("contiguous", "channels_last"):
        x, grad = in_layout(x, layout), in_layout(grad, layout)
        if layout == "channels_last":  # taps last
            weight = weight.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
        for interleaved in (False, True):
            with computing(backend):
                module = kernels("ctxvision.ops.aggregation", x)
                actual, expected = (
                    aggregation_results(each, x, weight, grad, (*geometry, interleaved))
                    for each in (module, aggregation_reference)
                )
            assert_same_kinds(actual, expected)


@every_kernel
@pytest.mark.parametrize("kind", KINDS_AND_WIDTHS, ids=str)
def test_contextual_convolution(backend, kind, dtype):
    for which in range(7):
        spread = 2.0 * (which % 2)  # anywhere, or at whole positions
        tensors, geometry, grad = convolution_case(kind, 1, (2, 2), (4, 5), spread=spread, dtype=dtype, seed=which)
        if which < 6:
            tensors[which] = spoilt(tensors[which], which)
        else:
            grad = spoilt(grad, which)
        tensors, grad = [t.to(backend.device) for t in tensors], grad.to(backend.device)
        with computing(backend):
            module = kernels("ctxvision.ops.contextual_conv", tensors[0])
            actual, expected = (
                convolution_results(each, tensors, geometry, grad) for each in (module, convolution_reference)
            )
        assert_same_kinds(actual, expected)


@every_backend
def test_an_image_without_pixels_is_zeros_outside(backend):
    x, weight = torch.zeros(1, 2, 0, 1), torch.zeros(1, 1, 9, 2, 3)
    weight[0, 0, 4, 1, 1] = torch.nan
    with computing(backend):
        y = local_aggregation(*(t.to(backend.device, backend.dtype) for t in (x, weight)), padding=(2, 2))
    assert torch.equal(kind_of(y.cpu()), torch.tensor([[0, 0, 0], [0, 1, 0]]).expand(1, 2, 2, 3))
