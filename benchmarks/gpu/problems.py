"""The problems that every Triton kernel has to solve correctly: ragged ones, and those of the networks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import oracle
from benchmarks.ops.cases import CASES, Case
from ctxvision.ops import contextual_conv2d, local_aggregation

Pair = tuple[int, int]
LOCAL, BENT = "local_aggregation", "contextual_conv2d"


@dataclass(frozen=True)
class Problem:
    """One call of an operator.

    Attributes:
        op: Name of the operator.
        channels: Input channels C.
        size: Height and width of the input in pixels.
        kernel: Height and width of the kernel.
        groups: Groups of a local aggregation, or of a contextual convolution.
        grouping: Group map of a local aggregation.
        out_channels: Output channels of a contextual convolution; 0 stands for C.
        stride: Vertical and horizontal stride.
        padding: Vertical and horizontal padding.
        dilation: Vertical and horizontal dilation.
        optional: Which optional tensors a contextual convolution takes, of ``w`` (weight offset), ``m`` (mask) and
            ``b`` (bias).
        batch: Number of images.
    """

    op: str
    channels: int
    size: Pair
    kernel: Pair
    groups: int
    grouping: str = "blocked"
    out_channels: int = 0
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    optional: str = "wmb"
    batch: int = 2

    @property
    def shape(self) -> str:
        """What the rows say of it."""
        parts = [
            f"{self.channels}x{self.size[0]}x{self.size[1]} k{self.kernel[0]}x{self.kernel[1]} G{self.groups}"
        ]
        if self.op == LOCAL:
            parts.append(self.grouping)
        else:
            parts.append(f"out {self.out_channels or self.channels} {self.optional or 'sampling only'}")
        parts += [
            f"{name}{value}" for name, value in (("s", self.stride), ("d", self.dilation)) if value != (1, 1)
        ]
        return " ".join(parts).replace(", ", "x").replace("(", "").replace(")", "")

    def functions(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Return our operator and its oracle; both take what `tensors` returns."""
        steps: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if self.op == LOCAL:
            steps["grouping"] = self.grouping
            return partial(local_aggregation, **steps), partial(oracle.local_aggregation_unfold, **steps)
        steps["groups"] = self.groups

        def ours(x: Tensor, weight: Tensor, offset: Tensor, *optional: Tensor | None) -> Tensor:
            by_name = dict(zip(("weight_offset", "mask", "bias"), optional, strict=True))
            return contextual_conv2d(x, weight, sampling_offset=offset, **by_name, **steps)

        return ours, partial(oracle.contextual_conv2d_torchvision, **steps)

    def tensors(self) -> list[Tensor | None]:
        """Return random arguments in float32 on the CPU; sampling offsets are never on a pixel's edge."""
        random = partial(torch.randn, generator=(generator := torch.Generator().manual_seed(0)))
        taps = self.kernel[0] * self.kernel[1]
        out = oracle.output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)
        x = random(self.batch, self.channels, *self.size)
        if self.op == LOCAL:
            return [x, random(self.batch, self.groups, taps, *out) / taps**0.5]
        filters, per_group = self.out_channels or self.channels, self.channels // self.groups
        offset = torch.randint(-64, 64, (self.batch, 2 * taps, *out), generator=generator).mul(2).add(1) / 64
        present = {
            "w": random(self.batch, self.channels, *self.kernel) / taps**0.5,
            "m": random(self.batch, taps, *out).sigmoid(),
            "b": random(filters),
        }
        weight = random(filters, per_group, *self.kernel) / (per_group * taps) ** 0.5
        return [
            x,
            weight,
            offset,
            *(tensor if name in self.optional else None for name, tensor in present.items()),
        ]


def of_case(case: Case) -> Problem:
    """Return the problem that a case of the timed operators solves."""
    half = (case.kernel // 2, case.kernel // 2)
    size, kernel = (case.size, case.size), (case.kernel, case.kernel)
    return Problem(case.op, case.channels, size, kernel, case.groups, case.grouping, padding=half, optional="w")


# sizes with a rest against strips and tiles, one channel to more than a tile holds, every step
RAGGED = (
    Problem(LOCAL, 48, (9, 11), (7, 7), 3, stride=(2, 2), padding=(3, 3)),
    Problem(LOCAL, 24, (7, 5), (3, 3), 8, "interleaved", dilation=(2, 1), padding=(2, 1)),
    Problem(LOCAL, 17, (5, 6), (3, 3), 1, stride=(2, 1)),
    Problem(LOCAL, 120, (5, 5), (3, 3), 40, "interleaved"),
    Problem(LOCAL, 5, (13, 4), (1, 1), 5, padding=(0, 0)),
    Problem(LOCAL, 6, (3, 4), (2, 2), 2),
    Problem(BENT, 33, (9, 8), (7, 7), 33, padding=(3, 3), stride=(2, 2)),
    Problem(BENT, 24, (7, 6), (3, 3), 24, optional="", dilation=(2, 2), padding=(2, 2)),
    Problem(BENT, 24, (6, 7), (3, 3), 2, out_channels=16),
    Problem(BENT, 16, (6, 7), (3, 5), 1, out_channels=20, padding=(1, 2), stride=(1, 2), optional="m"),
    Problem(BENT, 20, (5, 4), (1, 1), 20, padding=(0, 0), optional="wb"),
)
TINY = (
    Problem(LOCAL, 6, (5, 7), (3, 3), 2, stride=(2, 1)),
    Problem(LOCAL, 6, (5, 4), (3, 3), 3, "interleaved"),
    Problem(BENT, 6, (3, 4), (1, 3), 6, padding=(0, 1)),
    Problem(BENT, 4, (3, 4), (1, 3), 2, out_channels=6, padding=(0, 1), optional="w"),
)
PROBLEMS = (*map(of_case, CASES), *RAGGED)
