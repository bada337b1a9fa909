"""What the operators are compared with, and how closely.

Three independent oracles:
  * `*_loops`: the definitions of SPEC section 1, one Python loop per index. Forward only.
  * `local_aggregation_unfold`: the textbook `unfold` form. Its gradients come from autograd.
  * `contextual_conv2d_torchvision`: `torchvision.ops.deform_conv2d`, each sample a group.

`TOLERANCE` and `LOGIT_TOLERANCE` are the only tolerances of operators and reference logits; no test relaxes them.
"""

import itertools

import torch
import torch.nn.functional as F
import torchvision

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

# Largest error, relative to the largest expected magnitude (at least 1): a few roundings of the result, so
# that float16 and bfloat16 pass only where sums and sampling positions are kept in float32 or better.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}

# Largest error of a network's reference logits in float64, relative to the largest logit. A network whose blocks
# amplify one rounding of the input to 1e-9 of the logits, as docs/exactness.md measures, has ten times that.
LOGIT_TOLERANCE = {
    "cotnet50": 1e-9,
    "cotnet101": 1e-8,
    "cotnext50_2x48d": 1e-9,
    "se_cotnetd_50": 1e-9,
    "se_cotnetd_101": 1e-9,
    "rednet38": 1e-9,
    "rednet50": 1e-9,
    "rednet101": 1e-9,
}


def assert_close(actual, expected, dtype, what="result"):
    """Compare shapes and values at the tolerance of `dtype`. Accepts tensors or equally long sequences."""
    if not isinstance(actual, torch.Tensor):
        assert len(actual) == len(expected), f"{len(actual)} {what}s, expected {len(expected)}"
        for n, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_close(a, e, dtype, f"{what} {n}")
        return
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} against {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    bound = TOLERANCE[dtype] * max(1.0, expected.abs().max().item())
    error = (actual - expected).abs().max().item()
    # `not <=` so that a NaN fails
    if not error <= bound:
        at = (actual - expected).abs().nan_to_num(nan=torch.inf).argmax().item()
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), actual.shape))
        raise AssertionError(
            f"{what} {tuple(actual.shape)}: error {error:.3g} > {bound:.3g} at {at}: "
            f"{actual[at]} against {expected[at]}"
        )


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def output_size(size, kernel, stride, padding, dilation):
    """The convolution formula, both axes."""
    kernel, stride, padding, dilation = map(pair, (kernel, stride, padding, dilation))
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


# ----------------------------------------------------------------------------------------- local aggregation


def local_aggregation_loops(x, weight, stride=1, padding=None, dilation=1, grouping="blocked"):
    """y[b,c,i,j] = sum_uv weight[b, g(c), u k + v, i, j] x[b, c, i s + u d - p, j s + v d - p], float64."""
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    batch, channels, height, width = x.shape
    _, groups, taps, out_h, out_w = weight.shape
    k = round(taps**0.5)
    ph, pw = (dh * (k - 1) // 2, dw * (k - 1) // 2) if padding is None else pair(padding)
    xs, ws = x.double().tolist(), weight.double().tolist()
    y = torch.zeros(batch, channels, out_h, out_w, dtype=torch.float64)
    for b, c, i, j in itertools.product(range(batch), range(channels), range(out_h), range(out_w)):
        g = c // (channels // groups) if grouping == "blocked" else c % groups
        total = 0.0
        for u, v in itertools.product(range(k), range(k)):
            row, column = i * sh + u * dh - ph, j * sw + v * dw - pw
            if 0 <= row < height and 0 <= column < width:
                total += ws[b][g][u * k + v][i][j] * xs[b][c][row][column]
        y[b, c, i, j] = total
    return y


def local_aggregation_unfold(x, weight, stride=1, padding=None, dilation=1, grouping="blocked"):
    """The same through `unfold`; differentiable."""
    batch, channels = x.shape[:2]
    _, groups, taps, out_h, out_w = weight.shape
    k = round(taps**0.5)
    dilation = pair(dilation)
    padding = tuple(d * (k - 1) // 2 for d in dilation) if padding is None else pair(padding)
    patches = F.unfold(x, k, dilation, padding, pair(stride)).view(batch, channels, taps, out_h, out_w)
    per_channel = (
        weight.repeat_interleave(channels // groups, 1)
        if grouping == "blocked"
        else weight.repeat(1, channels // groups, 1, 1, 1)
    )
    return (patches * per_channel).sum(2)


# ------------------------------------------------------------------------------------ contextual convolution


def _tent_sample(image, row, column):
    """Bilinear sample of a list of rows: every pixel weighs max(0, 1-|dy|) max(0, 1-|dx|)."""
    total = 0.0
    for r, line in enumerate(image):
        wy = max(0.0, 1.0 - abs(row - r))
        if wy == 0.0:
            continue
        for c, pixel in enumerate(line):
            wx = max(0.0, 1.0 - abs(column - c))
            if wx != 0.0:
                total += wy * wx * pixel
    return total


def contextual_conv2d_loops(
    x, weight, offset, weight_offset=None, mask=None, bias=None, stride=1, padding=0, dilation=1, groups=1
):
    """y[b,o,p] = bias[o] + sum_cn (w[o,c,n] + dw[b,c,n]) m[b,n,p] x[b, c, p s + g(n) + dp[b,n,p]]."""
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    batch, channels, height, width = x.shape
    out_channels, per_group, kh, kw = weight.shape
    out_h, out_w = output_size((height, width), (kh, kw), stride, padding, dilation)
    xs, ws = x.double().tolist(), weight.double().tolist()
    y = torch.zeros(batch, out_channels, out_h, out_w, dtype=torch.float64)
    for b, i, j in itertools.product(range(batch), range(out_h), range(out_w)):
        samples = {}
        for u, v in itertools.product(range(kh), range(kw)):
            n = u * kw + v
            row, column = float(i * sh + u * dh - ph), float(j * sw + v * dw - pw)
            if offset is not None:
                row += offset[b, 2 * n, i, j].item()
                column += offset[b, 2 * n + 1, i, j].item()
            modulation = 1.0 if mask is None else mask[b, n, i, j].item()
            for c in range(channels):
                samples[c, u, v] = modulation * _tent_sample(xs[b][c], row, column)
        for o in range(out_channels):
            total = 0.0 if bias is None else bias[o].item()
            first = (o // (out_channels // groups)) * per_group
            for c, u, v in itertools.product(range(per_group), range(kh), range(kw)):
                w = ws[o][c][u][v]
                if weight_offset is not None:
                    w += weight_offset[b, first + c, u, v].item()
                total += w * samples[first + c, u, v]
            y[b, o, i, j] = total
    return y


def per_sample_weight(weight, weight_offset, groups):
    """w[o,c,n] + dw[b,c,n] as (B, O, C/groups, kh, kw)."""
    out_channels, per_group, kh, kw = weight.shape
    shared = weight_offset.view(-1, groups, 1, per_group, kh, kw).expand(
        -1, -1, out_channels // groups, -1, -1, -1
    )
    return weight + shared.reshape(-1, out_channels, per_group, kh, kw)


def contextual_conv2d_torchvision(
    x, weight, offset, weight_offset=None, mask=None, bias=None, stride=1, padding=0, dilation=1, groups=1
):
    """`deform_conv2d` with the batch folded into the groups, so that each sample may have its own weights."""
    batch, channels, height, width = x.shape
    out_channels, _, kh, kw = weight.shape
    out_h, out_w = output_size((height, width), (kh, kw), stride, padding, dilation)
    weights = weight.unsqueeze(0).expand(batch, -1, -1, -1, -1)
    if weight_offset is not None:
        weights = per_sample_weight(weight, weight_offset, groups)
    if offset is None:
        offset = x.new_zeros(batch, 2 * kh * kw, out_h, out_w)
    y = torchvision.ops.deform_conv2d(
        x.reshape(1, batch * channels, height, width),
        offset.reshape(1, batch * 2 * kh * kw, out_h, out_w),
        weights.reshape(batch * out_channels, -1, kh, kw),
        bias=None if bias is None else bias.repeat(batch),
        stride=pair(stride),
        padding=pair(padding),
        dilation=pair(dilation),
        mask=None if mask is None else mask.reshape(1, batch * kh * kw, out_h, out_w),
    )
    return y.reshape(batch, out_channels, out_h, out_w)


# ------------------------------------------------------------------------------------------------- gradients


def outputs_and_gradients(function, tensors, grad=None, **options):
    """Run `function(*tensors, **options)` on fresh leaves; return [y, gradient of each tensor given].

    Leaves keep the strides of `tensors`. The output's gradient is `grad`, or fixed random numbers.
    """
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*leaves, **options)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    needed = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, needed, grad.to(y))]


def layouts(tensor):
    """The same values behind other strides, by name."""
    backwards = tuple(reversed(range(tensor.ndim)))
    yield "reversed", tensor.permute(backwards).contiguous().permute(backwards)
    padded = tensor.new_full([2 * n + 1 for n in tensor.shape], torch.nan)
    sliced = padded[tuple(slice(1, None, 2) for _ in tensor.shape)]
    yield "sliced", sliced.copy_(tensor)
    if tensor.ndim > 1:
        yield "transposed", tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if tensor.ndim == 4:
        yield "channels_last", tensor.contiguous(memory_format=torch.channels_last)


def in_nan_buffer(tensor):
    """The same values and order of strides inside a buffer of NaN: a read outside shows in the result."""
    order = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
    dense = tensor.permute(order).contiguous()
    buffer = tensor.new_full([dense.numel() + 2000], torch.nan)
    inside = buffer[1000 : 1000 + dense.numel()].view(dense.shape).copy_(dense)
    return inside.permute([order.index(axis) for axis in range(tensor.ndim)])


def steps(stride, padding, dilation):
    """The steps of an operator as its node's attributes have them."""
    return {"stride": list(stride), "padding": list(padding), "dilation": list(dilation)}
