"""The temporal shift: part of the channels moves to the neighbouring frames (Lin, Gan, Han, TSM, ICCV 2019)."""

from typing import Any

import torch
from torch import Tensor

from ._checks import require_positive

Move = tuple[int, int, int]  # first channel, last + 1, from how many frames later they come


def temporal_shift(x: Tensor, frames: int, *, divisor: int = 8, past_only: bool = False) -> Tensor:
    """Move ``C // divisor`` channels one frame back in time, and as many one frame forward.

    Of each frame the first ``C // divisor`` channels become those of the frame after it, the next ``C // divisor``
    those of the frame before it; the others stay. Where there is no such frame they are zero. With ``past_only``
    only the first ``C // divisor`` channels move, and come from the frame before.

    The result is a new tensor, written once, because in a residual block the shortcut still reads the old one.
    The backward pass is the same shift in the other direction.

    Args:
        x: Features of the frames of clips, one clip after the other, ``(B * frames, C, ...)``.
        frames: Number of frames of a clip, ``T``.
        divisor: Number by which the channels are divided; 8 shifts an eighth of them each way.
        past_only: Whether channels only come from the frame before, which is all that a stream can do.

    Returns:
        A tensor of the shape, dtype and memory format of ``x``.

    Raises:
        ValueError: If the batch is no whole number of clips, or there are fewer channels than a shift takes.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import temporal_shift
        >>> clip = torch.arange(1, 4).view(3, 1, 1, 1).expand(3, 8, 1, 1)  # three frames
        >>> temporal_shift(clip, frames=3)[:, :3, 0, 0]
        tensor([[2, 0, 1],
                [3, 1, 2],
                [0, 2, 3]])
    """
    require_positive("temporal_shift", frames=frames, divisor=divisor)
    fold = shifted_channels(x, divisor, past_only)
    if x.shape[0] % frames:
        raise ValueError(f"temporal_shift: a batch of {x.shape[0]} is no whole number of clips of {frames} frames")
    moves = ((0, fold, -1),) if past_only else ((0, fold, 1), (fold, 2 * fold, -1))
    if torch.is_grad_enabled() and x.requires_grad:
        return _Shift.apply(x, frames, moves)  # type: ignore[no-any-return]
    return _shift(x, frames, moves)


def shifted_channels(x: Tensor, divisor: int, past_only: bool) -> int:
    """Return how many channels of ``(B, C, ...)`` a shift moves in each direction.

    Raises:
        ValueError: If there is none to move.
    """
    channels = x.shape[1] if x.dim() > 1 else 0
    fold = channels // divisor
    if fold < 1 or (2 - past_only) * fold > channels:
        raise ValueError(
            f"temporal_shift: {channels} channels are too few to shift 1/{divisor} of them "
            f"{'forward' if past_only else 'each way'}, got {tuple(x.shape)}"
        )
    return fold


class _Shift(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, frames: int, moves: tuple[Move, ...]) -> Tensor:
        return _shift(x, frames, moves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.frames, ctx.moves = inputs

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Shift.apply(tangents[0], ctx.frames, ctx.moves)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        adjoint = tuple((first, last, -later) for first, last, later in ctx.moves)
        return _Shift.apply(grads[0], ctx.frames, adjoint), None, None


def _shift(x: Tensor, frames: int, moves: tuple[Move, ...]) -> Tensor:
    out = torch.empty_like(x)
    before, after = (t.unflatten(0, (x.shape[0] // frames, frames)) for t in (x, out))
    for first, last, later in moves:
        if later > 0:
            after[:, :-1, first:last] = before[:, 1:, first:last]
            after[:, -1, first:last] = 0
        else:
            after[:, 1:, first:last] = before[:, :-1, first:last]
            after[:, 0, first:last] = 0
    rest = moves[-1][1]
    after[:, :, rest:] = before[:, :, rest:]
    return out
