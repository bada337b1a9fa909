"""The gate of the operators: ours and every peer against the oracle, forward and gradients, both layouts."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gate import check, check_finite, oracle
from benchmarks.ops.cases import Case, lay_out
from benchmarks.settings import Settings
from ctxvision.nn.layouts import LAYOUTS

IMAGES = 2


def check_case(case: Case, settings: Settings, compiled: bool = False) -> None:
    """Compare at the size that is timed, with few images: float64 needs time and memory.

    Ours is compared in the dtype of the run. The peers are compared in float32: what they lose in half precision
    is theirs.

    A compiled peer is compared with what it was compiled from, with all images: its graphs are for one shape.

    Args:
        case: The problem.
        settings: Device, dtype of ours, and batch.
        compiled: Whether to compare the compiled shifted sum as well.

    Raises:
        RedGate: If ours or a peer computes something else than the oracle.
    """
    ours = {"ours": (case.ours, settings.dtype)}
    peers = {name: (peer, torch.float32) for name, peer in case.peers().items()}
    for dtype in {settings.dtype, torch.float32}:
        functions = {name: f for name, (f, its) in (ours | peers).items() if its == dtype}
        _check(case, functions, dtype, settings)
    if compiled:
        _check_compiled(case, settings)


def _check(
    case: Case, functions: dict[str, Callable[..., Tensor]], dtype: torch.dtype, settings: Settings
) -> None:
    rounded = [tensor.to(dtype) for tensor in case.tensors(min(settings.batch, IMAGES))]
    exact = [tensor.to(settings.device, torch.float64) for tensor in rounded]
    # all cases keep the shape of x
    grad = torch.randn(rounded[0].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grad = grad.to(settings.device)
    expected = oracle.outputs_and_gradients(case.oracle, exact, grad.double())
    for name, function in functions.items():
        for layout in LAYOUTS:
            what = f"{case.op} {case.shape}, {name}, {layout}, {str(dtype).removeprefix('torch.')}"
            tensors = [lay_out(tensor, layout, settings.device, dtype) for tensor in rounded]
            found = oracle.outputs_and_gradients(function, tensors, lay_out(grad, layout, settings.device, dtype))
            for kind, actual, value in zip(_kinds(case), found, expected, strict=True):
                check_finite(f"{what}: {kind}", actual)
                check(f"{what}: {kind}", actual, value, dtype)


def _check_compiled(case: Case, settings: Settings) -> None:
    both = case.peers(compiled=True)
    for layout in LAYOUTS:
        tensors = [lay_out(t, layout, settings.device, torch.float32) for t in case.tensors(settings.batch)]
        for name, function in both.items():
            if name.endswith("compiled"):
                expected = oracle.outputs_and_gradients(both[name.removesuffix(", compiled")], tensors)
                found = oracle.outputs_and_gradients(function, tensors)
                check(f"{case.op} {case.shape}, {name}, {layout}", found, expected, torch.float32)


def _kinds(case: Case) -> tuple[str, ...]:
    if case.op == "local_aggregation":
        return "forward", "gradient of x", "gradient of the weight"
    return "forward", "gradient of x", "gradient of the weight", "gradient of the offsets", "gradient of the bends"
