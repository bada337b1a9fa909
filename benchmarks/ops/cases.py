"""The shapes that the networks run, and what has to be computed for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gate import oracle
from benchmarks.ops import peers
from ctxvision.nn.layouts import LAYOUTS, Layout
from ctxvision.ops import contextual_conv2d, local_aggregation, use_backend

OpName = Literal["local_aggregation", "contextual_conv2d"]
PASSES = ("forward", "forward+backward")


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        op: Which operator.
        channels: C; as many go out.
        size: Height and width in pixels; stride 1, padding keeps the size.
        kernel: k.
        groups: Groups of a local aggregation; of a contextual convolution C (depthwise) or 1 (dense).
        grouping: Group map of a local aggregation.
        named: Whether a target names this case.
    """

    op: OpName
    channels: int
    size: int
    kernel: int
    groups: int
    grouping: Literal["blocked", "interleaved"] = "blocked"
    named: bool = field(default=False, compare=False)

    @property
    def shape(self) -> str:
        """Shape of one image and kernel, as the rows say it."""
        image = f"{self.channels}x{self.size}x{self.size} k{self.kernel}"
        if self.op == "local_aggregation":
            return f"{image} G{self.groups} {self.grouping}"
        return f"{image} {'dense' if self.groups == 1 else 'depthwise'}"

    @property
    def ours(self) -> Callable[..., Tensor]:
        """The operator of this package."""
        if self.op == "local_aggregation":
            return partial(local_aggregation, grouping=self.grouping)
        return partial(contextual_conv2d, padding=self.kernel // 2, groups=self.groups)

    @property
    def oracle(self) -> Callable[..., Tensor]:
        """The independent oracle of the tests."""
        if self.op == "local_aggregation":
            return partial(oracle.local_aggregation_unfold, grouping=self.grouping)
        return partial(oracle.contextual_conv2d_torchvision, padding=self.kernel // 2, groups=self.groups)

    def peers(self, compiled: bool = False) -> dict[str, Callable[..., Tensor]]:
        """Return what else computes the same, by name; all take the tensors of `tensors`.

        Args:
            compiled: Whether a compiled shifted sum is among them.
        """
        torch_backend = _with_torch_backend(self.ours)
        if self.op == "local_aggregation":
            shifted = partial(peers.shifted_sum, grouping=self.grouping)
            # known shapes are the compiler's best case
            extra = {"shifted sum, compiled": torch.compile(shifted, dynamic=False)} if compiled else {}
            unfold = partial(peers.unfold, grouping=self.grouping)
            return {"unfold": unfold, "shifted sum": shifted, **extra, "ours, torch backend": torch_backend}
        deform = partial(peers.folded_deform_conv2d, padding=self.kernel // 2, groups=self.groups)
        return {"deform_conv2d": deform, "ours, torch backend": torch_backend}

    def floor(self) -> Callable[..., Tensor] | None:
        """Return the plain convolution of the same shape, which computes less, or ``None``."""
        if self.op == "local_aggregation":
            return None
        return partial(peers.plain_conv2d, padding=self.kernel // 2, groups=self.groups)

    def tensors(self, batch: int) -> tuple[Tensor, ...]:
        """Return random arguments, float32, plainly contiguous, on the CPU.

        Sampling offsets lie within two pixels, on odd multiples of 1/64: exact in bfloat16, exact when added to a
        position, and never on a pixel's edge, where the derivative jumps.
        """
        generator = torch.Generator().manual_seed(0)
        random = partial(torch.randn, generator=generator)
        taps, size = self.kernel**2, (self.size, self.size)
        x = random(batch, self.channels, *size)
        if self.op == "local_aggregation":
            return x, random(batch, self.groups, taps, *size) / taps**0.5
        per_group = self.channels // self.groups
        weight = random(self.channels, per_group, self.kernel, self.kernel) / (per_group * taps) ** 0.5
        offset = torch.randint(-64, 64, (batch, 2 * taps, *size), generator=generator).mul(2).add(1) / 64
        bend = random(batch, self.channels, self.kernel, self.kernel) / taps**0.5
        return x, weight, offset, bend


_LOCAL = partial(Case, "local_aggregation")
_BENT = partial(Case, "contextual_conv2d")
CASES = (
    _LOCAL(64, 56, 7, 4, named=True),
    _LOCAL(128, 28, 7, 8),
    _LOCAL(256, 14, 7, 16),
    _LOCAL(512, 7, 7, 32, named=True),
    _LOCAL(64, 56, 3, 8, "interleaved"),
    _LOCAL(512, 7, 3, 64, "interleaved"),
    _BENT(96, 56, 7, 96),
    _BENT(192, 28, 7, 192, named=True),
    _BENT(384, 14, 7, 384),
    _BENT(768, 7, 7, 768),
    _BENT(128, 28, 3, 1),
)


def tiny(case: Case) -> Case:
    """Return a case of the same kind that takes no time."""
    if case.op == "local_aggregation":
        return replace(case, channels=8, size=5, groups=2)
    return replace(case, channels=8, size=5, groups=1 if case.groups == 1 else 8)


def lay_out(tensor: Tensor, layout: Layout, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a copy in the memory format.

    The weight of a local aggregation, (B, G, K, H, W), is a view of a feature map (B, G K, H, W), as a network's
    convolution makes it.
    """
    moved: Tensor = tensor.detach().to(device, dtype)
    if moved.dim() == 5:
        maps: Tensor = lay_out(moved.flatten(1, 2), layout, device, dtype).unflatten(1, tensor.shape[1:3])
        return maps
    return moved.clone(memory_format=LAYOUTS[layout])


def one_pass(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], which: str) -> Callable[[], Any]:
    """Return a call without arguments that computes ``forward`` or ``forward+backward``."""
    if which == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*tensors)

        return forward

    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.no_grad():
        grad = torch.randn_like(function(*leaves))

    def both() -> tuple[Tensor | None, ...]:
        # the plain convolution does not use the offsets
        return torch.autograd.grad(function(*leaves), leaves, grad, allow_unused=True)

    return both


def count_macs(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], which: str) -> int:
    """Return the multiply-adds by the formulas of torch and of our operators; nothing is computed."""
    call = one_pass(function, tuple(tensor.to("meta") for tensor in tensors), which)
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def count_bytes(tensors: Sequence[Tensor], which: str) -> int:
    """Return the bytes of inputs and outputs, each counted once; a gradient counts as its tensor does.

    The output is as large as the first of ``tensors``, in all cases.
    """
    forward = sum(tensor.numel() for tensor in (tensors[0], *tensors)) * tensors[0].itemsize
    return forward * (1 if which == "forward" else 2)


def _with_torch_backend(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*tensors: Tensor) -> Tensor:
        with use_backend("torch"):
            return function(*tensors)

    return call
