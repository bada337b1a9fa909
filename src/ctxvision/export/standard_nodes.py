"""ONNX nodes of our operators, replaced by standard ones in the finished graph.

A graph with one node for each operator is recorded and written many times faster than one with three for each tap
of each kernel; the forms are those of ``portable.py`` in the operators' folders, where they are explained.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxvision.inference.exported.onnx_nodes import DOMAIN
from ctxvision.ops.aggregation.portable import SMALL, is_banded

from .node_writer import NodeWriter, known_length, length

if TYPE_CHECKING:
    import onnx_ir as ir

_AROUND = 2  # pixels of zeros around each image that is sampled


def expand(model: "ir.Model") -> None:
    """Replace every node of our domain by standard ones, in place."""
    import onnx_ir as ir
    from onnx_ir.passes.common import NameFixPass

    graph = model.graph
    for node in list(graph):
        if node.domain != DOMAIN:
            continue
        writer = NodeWriter(graph, node)
        result = _FORMS[node.op_type](writer, node)
        ir.convenience.replace_nodes_and_values(graph, node, [node], writer.nodes, [node.outputs[0]], [result])
    graph.opset_imports.pop(DOMAIN, None)
    NameFixPass()(model)


def _steps(node: "ir.Node") -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    stride, padding, dilation = (node.attributes[name].as_ints() for name in ("stride", "padding", "dilation"))
    return stride, padding, dilation


# ------------------------------------------------------------------------------------------ local aggregation


def _local_aggregation(write: NodeWriter, node: "ir.Node") -> "ir.Value":
    x, weight = node.inputs
    assert x is not None
    assert weight is not None
    stride, padding, dilation = _steps(node)
    interleaved = bool(node.attributes["interleaved"].as_int())
    channels, groups, taps = known_length(x, 1), known_length(weight, 1), known_length(weight, 2)
    kernel, columns, shared = math.isqrt(taps), length(weight, 4), channels // groups
    shifts = _shifts(x, weight, kernel, stride[0], padding[0], dilation[0])
    by_rows = kernel > SMALL and any(shift is not None for shift in shifts)
    banded = columns is not None and is_banded(columns, kernel, stride[1], dilation[1])
    around = (0, padding[1]) if by_rows and not banded else padding  # maps are moved along the rows, not the image
    padded = write.padded(x, around)
    sides = [None if n is None else n + 2 * p for n, p in zip((length(x, 2), length(x, 3)), around, strict=True)]
    sides = sides if None not in sides else [None, None]
    split = (shared, groups) if interleaved else (groups, shared)
    padded = write.reshaped(padded, 0, *split, *sides, of=padded)
    if banded:
        assert columns is not None
        sums = _banded(write, padded, weight, columns, kernel, stride, dilation, interleaved)
    elif by_rows:
        height = known_length(x, 2)
        sums = _sum_of_moved_rows(write, padded, height, weight, shifts, stride[1], dilation[1], interleaved)
    else:
        sums = _sum_of_shifts(write, padded, _maps(write, weight, taps, interleaved), kernel, stride, dilation)
    rows = length(weight, 3)
    known = rows is not None and columns is not None
    return write.reshaped(sums, 0, channels, *((rows, columns) if known else (None, None)), of=weight)


def _maps(write: NodeWriter, weight: "ir.Value", taps: int, interleaved: bool) -> Sequence["ir.Value"]:
    """Write one map for each tap, (B, G, 1, H', W') or (B, 1, G, H', W')."""
    if not interleaved:
        return write.split(weight, 2, taps)
    spread = write.split(write("Unsqueeze", weight, write.constant([1])), 3, taps)
    return [write("Squeeze", one, write.constant([3])) for one in spread]


def _sum_of_shifts(
    write: NodeWriter,
    padded: "ir.Value",
    maps: Sequence["ir.Value"],
    kernel: int,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> "ir.Value":
    total = None
    for v in range(kernel):
        shifted = write.sliced(padded, 4, _reads(v, kernel, stride[1], dilation[1]))
        column = None
        for u in range(kernel):
            read = write.sliced(shifted, 3, _reads(u, kernel, stride[0], dilation[0]))
            term = write("Mul", read, maps[u * kernel + v])
            column = term if column is None else write("Add", column, term)
        assert column is not None
        total = column if total is None else write("Add", total, column)
    assert total is not None  # a kernel has at least one tap
    return total


def _shifts(
    x: "ir.Value", weight: "ir.Value", kernel: int, stride: int, padding: int, dilation: int
) -> Sequence[int | None]:
    """Return how far from its own row a result reads, for each row of the kernel; ``None`` where no result does.

    Steps above one, and sizes that stay open, have no such distances.
    """
    height, made = length(x, 2), length(weight, 3)
    if stride != 1 or height is None or made is None:
        return [None] * kernel
    shifts = [u * dilation - padding for u in range(kernel)]
    return [shift if -made < shift < height else None for shift in shifts]


def _sum_of_moved_rows(
    write: NodeWriter,
    padded: "ir.Value",
    height: int,
    weight: "ir.Value",
    shifts: Sequence[int | None],
    stride: int,
    dilation: int,
    interleaved: bool,
) -> "ir.Value":
    """Write sums over the columns of the kernel for every row of x, which are then moved to the rows that read it.

    Maps are moved the other way before: there are as many of them as groups, not as channels.
    """
    kernel, made = len(shifts), known_length(weight, 3)
    read = [write.sliced(padded, 4, _reads(v, kernel, stride, dilation)) for v in range(kernel)]
    total = None
    for shift, row in zip(shifts, write.split(weight, 2, kernel), strict=True):
        if shift is None:
            continue
        after = height - made - shift
        moved = write.padded(row, (shift, 0), (after, 0))
        part = None
        for image, one in zip(read, _maps(write, moved, kernel, interleaved), strict=True):
            term = write("Mul", image, one)
            part = term if part is None else write("Add", part, term)
        assert part is not None  # a kernel has at least one tap
        part = write.padded(part, (-shift, 0), (-after, 0))
        total = part if total is None else write("Add", total, part)
    assert total is not None
    return total


def _reads(tap: int, kernel: int, stride: int, dilation: int) -> slice:
    return slice(tap * dilation, (tap - kernel + 1) * dilation or None, stride)


def _banded(
    write: NodeWriter,
    padded: "ir.Value",
    weight: "ir.Value",
    columns: int,
    kernel: int,
    stride: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> "ir.Value":
    span = dilation[1] * (kernel - 1) + 1
    width = stride[1] * (columns - 1) + span
    rows = write.sliced(padded, 4, slice(0, width))
    rows = write("Transpose", rows, perm=(0, 2, 3, 4, 1) if interleaved else (0, 1, 3, 4, 2))
    read = [write.sliced(rows, 2, _reads(u, kernel, stride[0], dilation[0])) for u in range(kernel)]
    images = read[0] if kernel == 1 else write("Concat", *read, axis=3)
    height = length(weight, 3)
    sides = (height, columns) if height is not None else (None, None)
    taps = write.reshaped(weight, 0, 0, kernel, kernel, *sides, of=weight)
    taps = write("Transpose", taps, perm=(0, 1, 4, 5, 2, 3))  # (B, G, H', W', k, k)
    if dilation[1] > 1:
        apart = write.padded(write("Unsqueeze", taps, write.constant([6])), (0,), (dilation[1] - 1,))
        taps = write.sliced(write.reshaped(apart, 0, 0, 0, 0, kernel, kernel * dilation[1]), 5, slice(0, span))
    band = write.reshaped(write.padded(taps, (0,), (width - span,)), 0, 0, 0, 0, kernel * width)
    # in rows that are a stride too long, row j + 1 begins a stride further right than row j
    band = write.padded(band, (0,), (stride[1],))
    band = write.reshaped(band, 0, 0, 0, columns * (kernel * width + stride[1]))
    band = write.sliced(band, 3, slice(0, columns * kernel * width))
    band = write.reshaped(band, 0, 0, 0, columns, kernel * width)
    sums = write("MatMul", band, images)
    return write("Transpose", sums, perm=(0, 4, 1, 2, 3) if interleaved else (0, 1, 4, 2, 3))


# ------------------------------------------------------------------------------------- contextual convolution


def _depthwise(write: NodeWriter, node: "ir.Node") -> "ir.Value":
    x, weight, offset, weight_offset, mask, bias = (*node.inputs, None, None, None)[:6]
    assert x is not None
    assert weight is not None
    assert offset is not None
    channels, *kernel = known_length(weight, 0), known_length(weight, 2), known_length(weight, 3)
    taps = kernel[0] * kernel[1]
    table, indices, shares = _corners(write, node, x, offset, mask, kernel)
    kernels = write.reshaped(weight, 1, channels, taps)
    if weight_offset is not None:
        kernels = write("Add", kernels, write.reshaped(weight_offset, 0, channels, taps))
    # (B or 1, 1, 1, K, 1, C)
    kernels = write("Unsqueeze", write("Transpose", kernels, perm=(0, 2, 1)), write.constant([1, 2, 4]))
    total = None
    each = (write.split(value, 3, taps) for value in (indices, shares, kernels))
    for place, share, one in zip(*each, strict=True):
        sample = write("MatMul", share, write("Gather", table, place, axis=0))  # (B, H', W', 1, 1, C)
        part = write("Mul", sample, one)
        total = part if total is None else write("Add", total, part)
    assert total is not None  # a kernel has at least one tap
    y = write("Transpose", write("Squeeze", total, write.constant([3, 4])), perm=(0, 3, 1, 2))
    return y if bias is None else write("Add", y, write.reshaped(bias, channels, 1, 1))


def _samples(write: NodeWriter, node: "ir.Node") -> "ir.Value":
    """Write what all taps sample, the columns (G, B, H' W', K C / G)."""
    x, offset, mask = (*node.inputs, None)[:3]
    assert x is not None
    assert offset is not None
    kernel, groups = node.attributes["kernel"].as_ints(), node.attributes["groups"].as_int()
    taps, channels = kernel[0] * kernel[1], known_length(x, 1)
    table, indices, shares = _corners(write, node, x, offset, mask, kernel)
    split = (groups, channels // groups)
    rows = []
    for u in range(kernel[0]):  # a row of taps at once: what they gather is four times as large as its samples
        row = slice(u * kernel[1], (u + 1) * kernel[1])
        share, place = (write.sliced(value, 3, row) for value in (shares, indices))
        samples = write("MatMul", share, write("Gather", table, place, axis=0))  # (B, H', W', k_w, 1, C)
        rows.append(write.reshaped(samples, 0, -1, kernel[1], *split))
    columns = rows[0] if len(rows) == 1 else write("Concat", *rows, axis=2)  # (B, H' W', K, G, C / G)
    if groups > 1:
        columns = write("Transpose", columns, perm=(3, 0, 1, 2, 4))
        return write.reshaped(columns, 0, 0, 0, taps * split[1])
    return write("Unsqueeze", write.reshaped(columns, 0, 0, taps * channels), write.constant([0]))


def _corners(
    write: NodeWriter,
    node: "ir.Node",
    x: "ir.Value",
    offset: "ir.Value",
    mask: "ir.Value | None",
    kernel: Sequence[int],
) -> tuple["ir.Value", "ir.Value", "ir.Value"]:
    """Write a table of pixels (N, C), each sample's four rows of it, (B, H', W', K, 4), and their shares."""
    stride, padding, dilation = _steps(node)
    taps = kernel[0] * kernel[1]
    table = write("Transpose", write.padded(x, (_AROUND, _AROUND)), perm=(0, 2, 3, 1))
    table = write.reshaped(table, -1, known_length(x, 1))
    # (B, H', W', K, 2), rows before columns
    moved = write.reshaped(write("Transpose", offset, perm=(0, 2, 3, 1)), 0, 0, 0, taps, 2)
    down, right = np.divmod(np.arange(taps), kernel[1])
    whole, fractions = [], []
    for axis, (tap, part) in enumerate(zip((down, right), write.split(moved, 4, 2), strict=True)):
        grid = _grid(write, offset, axis, stride[axis], tap * dilation[axis] - padding[axis])
        position = write("Add", write("Squeeze", part, write.constant([4])), grid)
        # two pixels outside is as far as any distance: infinite offsets stay finite
        end = write.axis(x, 2 + axis)
        position = write("Clip", position, write.constant(-2.0, np.float32), _as_float(write, x, 2 + axis))
        first = write("Floor", position)
        fraction = write("Sub", position, first)
        # once more, because NaN becomes any integer
        whole.append(write("Clip", write("Cast", first, to=7), write.constant(-2), end))
        fractions.append((write("Sub", write.constant(1.0, np.float32), fraction), fraction))
    rows, columns = fractions
    if mask is not None:
        modulation = write("Transpose", mask, perm=(0, 2, 3, 1))
        rows = (write("Mul", rows[0], modulation), write("Mul", rows[1], modulation))
    last = write.constant([4])
    upright, across = (
        write("Concat", *(write("Unsqueeze", one, last) for one in pair), axis=4) for pair in (rows, columns)
    )
    shares = write("Mul", write("Unsqueeze", upright, write.constant([5])), write("Unsqueeze", across, last))
    shares = write.reshaped(shares, 0, 0, 0, 0, 1, 4)  # upper left, upper right, lower left, lower right
    width = write("Add", write.axis(x, 3), write.constant(2 * _AROUND))
    size = write("Mul", write("Add", write.axis(x, 2), write.constant(2 * _AROUND)), width)
    images = write("Range", write.constant(0), write("Squeeze", write("Shape", x, end=1)), write.constant(1))
    images = write.reshaped(write("Mul", images, size), -1, 1, 1, 1)
    top, left = (write("Add", one, write.constant(_AROUND)) for one in whole)
    index = write("Add", write("Add", images, write("Mul", top, width)), left)
    down_one = write("Mul", write.constant([0, 0, 1, 1]), width)
    corners = write("Add", down_one, write.constant([0, 1, 0, 1]))
    return table, write("Add", write("Unsqueeze", index, last), corners), shares


def _grid(write: NodeWriter, offset: "ir.Value", axis: int, stride: int, taps: Any) -> "ir.Value":
    """Write the rows or columns that the taps (K,) read without offsets, (H', 1, K) or (W', K), float32."""
    known = length(offset, 2 + axis)
    if known is not None:
        grid = np.arange(known)[:, None] * stride + taps
        return write.constant(grid[:, None] if axis == 0 else grid, np.float32)
    places = write("Range", write.constant(0), write.axis(offset, 2 + axis), write.constant(1))
    grid = write("Add", write("Mul", write.reshaped(places, -1, 1), write.constant(stride)), write.constant(taps))
    grid = write("Cast", grid, to=1)
    return write("Unsqueeze", grid, write.constant([1])) if axis == 0 else grid


def _as_float(write: NodeWriter, x: "ir.Value", axis: int) -> "ir.Value":
    known = length(x, axis)
    return write("Cast", write.axis(x, axis), to=1) if known is None else write.constant(float(known), np.float32)


_FORMS: dict[str, Callable[[NodeWriter, "ir.Node"], "ir.Value"]] = {
    "LocalAggregation": _local_aggregation,
    "DepthwiseContextualConv": _depthwise,
    "ContextualSamples": _samples,
}
