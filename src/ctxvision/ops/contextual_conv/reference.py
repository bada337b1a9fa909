"""Contextual convolution in plain torch: any device, any floating dtype, differentiable itself.

The image is a table of rows, one row of C channels per pixel, and one zero row at the end for everything
outside. A tap reads four rows per output position; taps are summed one by one, so that the sampled image,
``kh * kw`` times as large as the input, never exists. Layouts: rows (B * H * W + 1, C), positions (B, P)
with P = H' * W', sampled (B, P, C), grad (B, P, O).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctxvision.ops._geometry import accumulation_dtype, is_channels_last, output_size

Corner = tuple[Tensor, Tensor]  # row indices (B, P), interpolation coefficients (B, P, 1)


class _Tap(NamedTuple):
    """The four corners that one kernel tap reads, top-left, top-right, bottom-left, bottom-right."""

    corners: tuple[Corner, Corner, Corner, Corner]  # coefficients are modulated
    fraction_y: Tensor  # (B, P), distance from the upper row in [0, 1)
    fraction_x: Tensor


def _rows(x: Tensor) -> Tensor:
    """Return the pixels of (B, C, H, W) as rows, with one more row of zeros, in the accumulation dtype."""
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).to(accumulation_dtype(x.dtype))
    return torch.cat([pixels, pixels.new_zeros(1, x.shape[1])])


def _image(rows: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return (B * H * W, C) rows as an image of shape (B, C, H, W) in the dtype and memory format of ``like``."""
    batch, channels, height, width = shape
    image = rows.to(like.dtype).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return image if is_channels_last(like) else image.contiguous()


def _sample_positions(
    sampling_offset: Tensor, masks: Tensor | None, size: Sequence[int], kernel: Sequence[int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Iterator[_Tap]:  # fmt: skip
    """Yield the corners of each tap, row by row over the kernel; ``masks`` (B, K, P) modulate the coefficients."""
    (batch, _, rows, columns), (height, width) = sampling_offset.shape, size
    sampling_offset = sampling_offset.to(accumulation_dtype(sampling_offset.dtype)).reshape(
        batch, kernel[0] * kernel[1], 2, rows * columns
    )
    like: dict[str, Any] = {"dtype": sampling_offset.dtype, "device": sampling_offset.device}
    grid_y = (torch.arange(rows, **like) * stride[0] - padding[0]).repeat_interleave(columns)
    grid_x = (torch.arange(columns, **like) * stride[1] - padding[1]).repeat(rows)
    first_row = torch.arange(batch, dtype=torch.int64, device=sampling_offset.device)[:, None] * (height * width)
    outside = torch.full((), batch * height * width, dtype=torch.int64, device=sampling_offset.device)
    for n in range(kernel[0] * kernel[1]):
        # two pixels outside is as far as any distance: keeps infinite offsets finite and indices in range
        y = (grid_y + (n // kernel[1]) * dilation[0] + sampling_offset[:, n, 0]).clamp(-2, height + 1)
        x = (grid_x + (n % kernel[1]) * dilation[1] + sampling_offset[:, n, 1]).clamp(-2, width + 1)
        top, left = y.detach().floor(), x.detach().floor()
        fraction_y, fraction_x = y - top, x - left

        def corner(down: int, right: int, top: Tensor = top, left: Tensor = left) -> Tensor:
            row, column = top + down, left + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)  # false for NaN as well
            row, column = torch.where(inside, row, 0), torch.where(inside, column, 0)
            return torch.where(inside, first_row + row.long() * width + column.long(), outside)

        upper, lower = 1 - fraction_y, fraction_y
        if masks is not None:
            upper, lower = upper * masks[:, n], lower * masks[:, n]
        weights = (
            upper * (1 - fraction_x), upper * fraction_x, lower * (1 - fraction_x), lower * fraction_x
        )  # fmt: skip
        indices = (corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1))
        corners = tuple((index, weight.unsqueeze(-1)) for index, weight in zip(indices, weights, strict=True))
        yield _Tap(corners, fraction_y, fraction_x)  # type: ignore[arg-type]


def _read(rows: Tensor, index: Tensor) -> Tensor:
    """Gather (B, P, C) from the pixel rows."""
    return rows.index_select(0, index.flatten()).reshape(*index.shape, rows.shape[1])


def _interpolate(rows: Tensor, tap: _Tap) -> Tensor:
    """Return the modulated bilinear samples of one tap, (B, P, C)."""
    (index, weight), *others = tap.corners
    sampled = _read(rows, index) * weight
    for index, weight in others:
        sampled = torch.addcmul(sampled, _read(rows, index), weight)
    return sampled


def _between(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate as the kernels do; `torch.lerp` has two formulas, which differ where a number is infinite."""
    return torch.addcmul(a, fraction, b - a)


def _contract(sampled: Tensor, weight: Tensor, weight_offset: Tensor | None, groups: int) -> Tensor:
    """Return what one tap adds to the output, (B, P, O): weight (O, C / groups), weight_offset (B, C)."""
    if weight.shape[1] == 1 and weight.shape[0] == groups:
        return sampled * (weight[:, 0] if weight_offset is None else (weight[:, 0] + weight_offset)[:, None])
    grouped = sampled.unflatten(-1, (groups, -1))
    y = torch.einsum("bpgc,goc->bpgo", grouped, weight.unflatten(0, (groups, -1)))
    if weight_offset is not None:
        y = y + torch.einsum("bpgc,bgc->bpg", grouped, weight_offset.unflatten(-1, (groups, -1))).unsqueeze(-1)
    return y.flatten(2)


def contextual_conv(
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return (B, O, H', W'); arguments as in `ctxvision.ops.contextual_conv2d`, already checked."""
    size, kernel = x.shape[2:], weight.shape[2:]
    out_size = output_size(size, kernel, stride, padding, dilation)
    rows = _rows(x)
    weight = weight.to(rows.dtype).flatten(2)  # (O, C / groups, K)
    weight_offsets = None if weight_offset is None else weight_offset.to(rows.dtype).flatten(2)  # (B, C, K)
    masks = None if mask is None else mask.to(rows.dtype).flatten(2)  # (B, K, P)
    total = None  # the first term has every level of `torch.func` that the sum has: the others are added in place
    for n, tap in enumerate(_sample_positions(sampling_offset, masks, size, kernel, stride, padding, dilation)):
        term = _contract(
            _interpolate(rows, tap),
            weight[..., n],
            None if weight_offsets is None else weight_offsets[..., n],
            groups,
        )
        total = term if total is None else total.add_(term)
    assert total is not None  # a kernel has at least one tap
    if bias is not None:
        total = total + bias.to(rows.dtype)
    return _image(total, (x.shape[0], weight.shape[0], *out_size), x)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients in x, weight, both offsets and mask; ``needs`` says which, the others are empty.

    ``grad`` is ``(B, O, H', W')``; each gradient has the shape of its argument.
    """
    size, kernel, taps = x.shape[2:], weight.shape[2:], weight.shape[2:].numel()
    rows = _rows(x)
    accumulate = rows.dtype
    grad = grad.permute(0, 2, 3, 1).flatten(1, 2).to(accumulate)  # (B, P, O)
    weights = weight.to(accumulate).flatten(2)
    weight_offsets = None if weight_offset is None else weight_offset.to(accumulate).flatten(2)
    masks = None if mask is None else mask.to(accumulate).flatten(2)
    depthwise = weight.shape[1] == 1 and weight.shape[0] == groups
    grouped_grad = grad.unflatten(-1, (groups, -1))  # (B, P, G, O / G)
    summed_grad = grouped_grad.sum(-1)  # (B, P, G): what a weight offset sees of the output

    rows_grad, add = torch.zeros_like(rows), Tensor.index_add
    weight_grads, weight_offset_grads, mask_grads, sampling_offset_grads = [], [], [], []
    for n, tap in enumerate(_sample_positions(sampling_offset, masks, size, kernel, stride, padding, dilation)):
        values = [_read(rows, index) for index, _ in tap.corners]  # four times (B, P, C)
        if needs[1] or needs[3]:
            sampled = torch.zeros_like(values[0])
            for value, (_, coefficient) in zip(values, tap.corners, strict=True):
                sampled = torch.addcmul(sampled, value, coefficient)
            if depthwise:
                per_image = (grad * sampled).sum(1)  # (B, C)
                weight_grads.append(per_image.sum(0)[:, None])
                weight_offset_grads.append(per_image)
            else:
                grouped = sampled.unflatten(-1, (groups, -1))
                weight_grads.append(torch.einsum("bpgo,bpgc->goc", grouped_grad, grouped).flatten(0, 1))
                weight_offset_grads.append(torch.einsum("bpg,bpgc->bgc", summed_grad, grouped).flatten(1))
        if not (needs[0] or needs[2] or needs[4]):
            continue
        if depthwise:
            own = (
                weights[:, 0, n]
                if weight_offsets is None
                else (weights[:, 0, n] + weight_offsets[..., n])[:, None]
            )
            sampled_grad = grad * own
        else:
            sampled_grad = torch.einsum("bpgo,goc->bpgc", grouped_grad, weights[..., n].unflatten(0, (groups, -1)))
            if weight_offsets is not None:
                sampled_grad = sampled_grad + summed_grad.unsqueeze(-1) * weight_offsets[..., n].unflatten(
                    -1, (1, groups, -1)
                )
            sampled_grad = sampled_grad.flatten(2)
        if needs[2] or needs[4]:
            top_left, top_right, bottom_left, bottom_right = ((sampled_grad * value).sum(-1) for value in values)
            fy, fx = tap.fraction_y, tap.fraction_x
            top, bottom = _between(top_left, top_right, fx), _between(bottom_left, bottom_right, fx)
            mask_grads.append(_between(top, bottom, fy))
            by_y, by_x = bottom - top, _between(top_right - top_left, bottom_right - bottom_left, fy)
            by_sampling_offset = torch.stack([by_y, by_x], dim=1)  # (B, 2, P)
            sampling_offset_grads.append(
                by_sampling_offset if masks is None else by_sampling_offset * masks[:, n, None]
            )
        if needs[0]:
            for index, coefficient in tap.corners:
                rows_grad = add(rows_grad, 0, index.flatten(), (sampled_grad * coefficient).flatten(0, 1))
                add = Tensor.index_add_  # in place from then on, see `contextual_conv`

    nothing = x.new_empty(0)
    return (
        _image(rows_grad[:-1], x.shape, x) if needs[0] else nothing,
        torch.stack(weight_grads, -1).reshape(weight.shape).to(weight.dtype) if needs[1] else nothing.clone(),
        torch.cat(sampling_offset_grads, 1).reshape(sampling_offset.shape).to(x.dtype)
        if needs[2]
        else nothing.clone(),
        torch.stack(weight_offset_grads, -1).reshape(*x.shape[:2], *kernel).to(x.dtype)
        if needs[3]
        else nothing.clone(),
        torch.stack(mask_grads, 1).reshape(x.shape[0], taps, *sampling_offset.shape[2:]).to(x.dtype)
        if needs[4]
        else nothing.clone(),
    )
