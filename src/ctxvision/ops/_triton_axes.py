"""What the Triton kernels of both operators say about addresses and axes."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,import-untyped"

import triton
import triton.language as tl


@triton.jit
def far(index, stride):
    """Multiply in 64 bits, whatever comes in."""
    offset = tl.cast(index, tl.int64) * stride
    tl.static_assert(offset.dtype == tl.int64, "addresses have 64 bits")
    return offset


@triton.jit
def by_position(p, CHANNELS_LAST: tl.constexpr):
    """Lay positions along their axis of a tile; the axis that is contiguous in memory is the last one."""
    return p[:, None] if CHANNELS_LAST else p[None, :]


@triton.jit
def by_channel(c, CHANNELS_LAST: tl.constexpr):
    """Lay channels, or groups of them, along theirs."""
    return c[None, :] if CHANNELS_LAST else c[:, None]
