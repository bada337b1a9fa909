"""The temporal shift against a loop over frames and channels, and its gradient against finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxvision.nn import temporal_shift

SHAPES = st.tuples(
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(8, 40),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 8),
)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int64])
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "strided", "expanded", "transposed"])


def loop(x, frames, divisor, past_only):
    """What the definition says, one element of the batch and one channel after the other."""
    out, fold = torch.zeros_like(x), x.shape[1] // divisor
    for row in range(len(x)):
        frame = row % frames
        for channel in range(x.shape[1]):
            step = 0
            if channel < fold:
                step = -1 if past_only else 1
            elif channel < 2 * fold and not past_only:
                step = -1
            if 0 <= frame + step < frames:
                out[row, channel] = x[row + step, channel]
    return out


def laid_out(shape, dtype, layout):
    count, channels, height, width = shape
    x = torch.randint(1, 100, shape).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.randint(1, 100, (count, channels, 2 * height, width)).to(dtype)[:, :, ::2]
    if layout == "expanded":
        return x[:, :, :1, :1].expand(shape)
    return x.transpose(2, 3) if layout == "transposed" else x


@settings(max_examples=150)
@given(SHAPES, DTYPES, LAYOUTS, st.booleans())
def test_equals_a_loop(shape, dtype, layout, past_only):
    clips, frames, channels, height, width, divisor = shape
    x = laid_out((clips * frames, channels, height, width), dtype, layout)
    before = x.clone()
    y = temporal_shift(x, frames, divisor=divisor, past_only=past_only)
    assert torch.equal(y, loop(x, frames, divisor, past_only))
    assert y.dtype == x.dtype
    assert torch.equal(x, before)  # the shortcut still reads it


def test_other_ranks():
    x = torch.randn(6, 16)
    assert torch.equal(temporal_shift(x, 3), loop(x, 3, 8, False))
    x = torch.randn(6, 16, 5, 2, 2)
    assert torch.equal(temporal_shift(x, 3), loop(x, 3, 8, False))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeps_the_memory_format_and_copies_once(memory_format):
    x = torch.randn(4, 16, 5, 5).contiguous(memory_format=memory_format)
    y = temporal_shift(x, 2)
    assert y.is_contiguous(memory_format=memory_format)
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("past_only", [False, True])
def test_gradients(past_only):
    x = torch.randn(6, 9, 2, 2, dtype=torch.float64, requires_grad=True)

    def shift(x):
        return temporal_shift(x, 3, divisor=4, past_only=past_only)

    assert torch.autograd.gradcheck(shift, x)
    assert torch.autograd.gradgradcheck(shift, x)
    # the adjoint: <S x, y> = <x, S* y>
    y = torch.randn_like(x)
    (adjoint,) = torch.autograd.grad(shift(x), x, y)
    assert torch.allclose((shift(x) * y).sum(), (x * adjoint).sum())


def test_with_and_without_gradient_alike():
    x = torch.randn(4, 8, 3, 3, requires_grad=True)
    with torch.no_grad():
        plain = temporal_shift(x, 2)
    assert torch.equal(plain, temporal_shift(x, 2))


def test_shift_there_and_back_loses_only_the_ends():
    x = torch.randn(5, 8, 1, 1)
    y = temporal_shift(temporal_shift(x, 5), 5)
    assert torch.equal(y[:, 2:], x[:, 2:])
    assert torch.equal(y[:3, 0], x[2:, 0])
    assert torch.equal(y[2:, 1], x[:3, 1])


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((5, 8, 2, 2), (2,), "a batch of 5 is no whole number of clips of 2 frames"),
        ((4, 7, 2, 2), (2,), "7 channels are too few to shift 1/8 of them each way"),
        ((4, 7, 2, 2), (2, 1), "too few to shift 1/1 of them each way"),
        ((4,), (2,), "0 channels"),
        ((4, 8), (0,), "frames must be an integer >= 1, got 0"),
        ((4, 8), (2, 0), "divisor must be an integer >= 1, got 0"),
    ],
)
def test_refusals(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        temporal_shift(torch.zeros(shape), *arguments[:1], **dict(zip(["divisor"], arguments[1:], strict=False)))
