"""A network as a graph of standard operators (`torch.export`), for any batch, and any size where it allows."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

import ctxvision.ops  # noqa: F401 - registers the operators that are replaced
from ctxvision.inference.exported import ExportError

from . import portable


def export_program(
    network: nn.Module, example: Tensor, *, dynamic_batch: bool = True, dynamic_size: bool = False
) -> ExportedProgram:
    """Trace a network of images in evaluation mode; our operators become standard ones (see `portable`).

    Args:
        network: Network that takes images (B, C, H, W); it is not changed.
        example: Images to trace with, (B, C, H, W), at least two where the batch is to be dynamic.
        dynamic_batch: Whether the graph takes any number of images.
        dynamic_size: Whether the graph takes any height and width that the network takes.

    Returns:
        The graph, in float32 unless the network is not.

    Raises:
        ExportError: The network cannot be traced so.
    """
    dimensions: dict[int, object] = {}
    if dynamic_batch:
        dimensions[0] = Dim.DYNAMIC
    if dynamic_size:
        dimensions |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return trace(network, (example,), (dimensions,))


def trace(
    network: nn.Module, example: tuple[Tensor, ...], dimensions: tuple[dict[int, Any] | None, ...]
) -> ExportedProgram:
    """Trace a network of any inputs.

    Args:
        network: Network to trace; it is not changed.
        example: Arguments of the network to trace with, tensors of any shapes that it takes.
        dimensions: Dimensions of each input that may differ between calls.

    Raises:
        ExportError: The network cannot be traced so.
    """
    network = copy.deepcopy(network).eval()
    try:
        with torch.no_grad(), _Replacing():
            program = torch.export.export(network, example, dynamic_shapes=dimensions)
    except Exception as error:  # torch.export raises many kinds
        freedom = " for any size" if any(d and {2, 3} & d.keys() for d in dimensions) else ""
        raise ExportError(f"torch cannot export this network{freedom}: {_first_line(error)}") from error
    custom = sorted({str(n.target) for n in program.graph.nodes if str(n.target).startswith("ctxvision")})
    if custom:
        raise ExportError(f"the graph still holds {', '.join(custom)}")
    return program


class _Replacing(TorchFunctionMode):
    """Calls what stands for an operator while a network is traced; decomposing the graph later takes longer."""

    def __init__(self) -> None:
        super().__init__()
        self._standing = {
            torch.ops.ctxvision.local_aggregation.default: portable.local_aggregation,
            torch.ops.ctxvision.contextual_conv2d.default: portable.contextual_conv2d,
            F.adaptive_avg_pool2d: portable.adaptive_avg_pool2d,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._standing.get(func, func)(*args, **(kwargs or {}))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
