"""Random arguments of the two operators, by geometry; float64 on the CPU unless told."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from _oracle import output_size

GROUPINGS = ["blocked", "interleaved"]
LOW_PRECISION = [torch.float16, torch.bfloat16]


def aggregation_case(
    batch=2,
    channels=4,
    groups=2,
    k=3,
    size=(5, 7),
    stride=1,
    padding=None,
    dilation=1,
    dtype=torch.float64,
    device="cpu",
    seed=0,
):
    """x and a weight map of the right size; `padding=None` is "same", as in the function."""
    if padding is None:
        d = (dilation, dilation) if isinstance(dilation, int) else dilation
        padding = tuple(n * (k - 1) // 2 for n in d)
    out = output_size(size, k, stride, padding, dilation)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)
    weight = torch.randn(batch, groups, k * k, *out, dtype=torch.float64, generator=generator)
    return x.to(device, dtype), weight.to(device, dtype)


NAMES = ["x", "weight", "sampling_offset", "weight_offset", "mask", "bias"]
ALL = frozenset(NAMES)
PLAIN = frozenset(["x", "weight"])
LOW_PRECISION = [torch.float16, torch.bfloat16]
# (channels, out_channels, groups): depthwise, dense, grouped, depthwise with a multiplier
KINDS = {"depthwise": (4, 4, 4), "dense": (3, 5, 1), "grouped": (4, 6, 2), "multiplier": (2, 6, 2)}
every_subset = pytest.mark.parametrize(
    "present",
    [PLAIN.union(extra) for n in range(5) for extra in itertools.combinations(NAMES[2:], n)],
    ids=lambda names: "+".join(n for n in NAMES if n in names),
)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def contextual_case(
    kind=(4, 4, 4),
    batch=2,
    kernel=(3, 3),
    size=(5, 6),
    stride=1,
    padding=1,
    dilation=1,
    present=ALL,
    spread=3.0,
    smooth=False,
    dtype=torch.float64,
    device="cpu",
    seed=0,
):
    """The six tensors (None where not present) and the options.

    Offsets are normal with standard deviation `spread`, so many samples lie outside; `smooth` keeps them at
    least 0.2 from an integer, where the derivative exists.
    """
    channels, out_channels, groups = kind
    taps, out = kernel[0] * kernel[1], output_size(size, kernel, stride, padding, dilation)
    shapes = {
        "x": (batch, channels, *size),
        "weight": (out_channels, channels // groups, *kernel),
        "sampling_offset": (batch, 2 * taps, *out),
        "weight_offset": (batch, channels, *kernel),
        "mask": (batch, taps, *out),
        "bias": (out_channels,),
    }
    generator = torch.Generator().manual_seed(seed)
    values = {n: torch.randn(s, dtype=torch.float64, generator=generator) for n, s in shapes.items()}
    values["sampling_offset"] *= spread
    if smooth:
        whole = values["sampling_offset"].floor()
        values["sampling_offset"] = whole + 0.2 + 0.6 * (values["sampling_offset"] - whole)
    tensors = [values[n].to(device, dtype) if n in present else None for n in NAMES]
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def on_cpu_in_double(tensors):
    return [None if t is None else t.detach().cpu().double() for t in tensors]


def check_strides_as_promised(channels_last):
    """Every operator returns tensors in the memory format that it promises to compilers, whatever computes."""
    geometry = ([1, 1], [1, 1], [1, 1])
    x, weight = aggregation_case(2, 8, 2, size=(6, 5), dtype=torch.float32)
    bent, kernel = torch.randn(8, 1, 3, 3), torch.randn(4, 8, 3, 3)
    offset, bend, mask = torch.randn(2, 18, 6, 5), torch.randn(2, 8, 3, 3), torch.rand(2, 9, 6, 5)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    grad, narrow = torch.randn_like(x), torch.randn_like(x[:, :4])
    needs = [True] * 5
    ops = torch.ops.ctxvision
    calls = {
        "aggregate": lambda c: ops.local_aggregation(c(x), c(weight), *geometry, False),
        "input_grad": lambda c: ops.local_aggregation_input_grad(c(grad), c(weight), [6, 5], *geometry, False),
        "weight_grad": lambda c: ops.local_aggregation_weight_grad(c(x), c(grad), 2, 9, *geometry, False),
        "depthwise": lambda c: ops.contextual_conv2d(
            c(x), c(bent), c(offset), c(bend), c(mask), None, *geometry, 8
        ),
        "dense": lambda c: ops.contextual_conv2d(c(x), c(kernel), c(offset), c(bend), c(mask), None, *geometry, 1),
        "depthwise backward": lambda c: ops.contextual_conv2d_backward(
            c(grad), c(x), c(bent), c(offset), c(bend), c(mask), *geometry, 8, needs
        ),
        "dense backward": lambda c: ops.contextual_conv2d_backward(
            c(narrow), c(x), c(kernel), c(offset), c(bend), c(mask), *geometry, 1, needs
        ),
    }
    for name, call in calls.items():
        with FakeTensorMode() as mode:
            promised = call(mode.from_tensor)
        actual = call(lambda tensor: tensor)
        pairs = [(actual, promised)] if isinstance(actual, torch.Tensor) else zip(actual, promised, strict=True)
        for n, (real, fake) in enumerate(pairs):
            assert (real.shape, real.stride()) == (fake.shape, fake.stride()), f"{name}, result {n}"
