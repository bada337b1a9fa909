"""A network as a graph of standard operators (`torch.export`), for any batch, and any size where it allows."""

import copy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import ctxvision.ops  # noqa: F401 - registers the operators that are replaced

from . import portable
from .error import ExportError
from .metadata import Metadata


def export_program(
    network: nn.Module, example: Tensor, *, dynamic_batch: bool = True, dynamic_size: bool = False
) -> ExportedProgram:
    """Trace a network in evaluation mode; our operators become standard ones (see `portable`).

    Args:
        network: takes images (B, C, H, W); it is not changed.
        example: images to trace with, at least two where the batch is to be dynamic.
        dynamic_batch: whether the graph takes any number of images.
        dynamic_size: whether it takes any height and width that the network takes.

    Returns:
        The graph, in float32 unless the network is not.

    Raises:
        ExportError: the network cannot be traced so.
    """
    dimensions: dict[int, object] = {}
    if dynamic_batch:
        dimensions[0] = Dim.DYNAMIC
    if dynamic_size:
        dimensions |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    network = copy.deepcopy(network).eval()
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=(dimensions,))
        program = program.run_decompositions(_table())
    except Exception as error:  # torch.export raises many kinds
        freedom = " with --dynamic-size" if dynamic_size else ""
        raise ExportError(f"torch cannot export this network{freedom}: {_first_line(error)}") from error
    custom = sorted({str(n.target) for n in program.graph.nodes if str(n.target).startswith("ctxvision")})
    if custom:
        raise ExportError(f"the graph still holds {', '.join(custom)}")
    return program


def example_images(metadata: Metadata) -> Tensor:
    """Return images to trace with: two for any number; of any size, so large that no map shrinks to one pixel.

    What is 1 while a network is traced, or as high as wide, is taken to be so always.
    """
    channels, height, width = metadata.data_spec["input_size"]
    if metadata.dynamic_size:
        height, width = max(height, 128), max(width, 128) + 32
    return torch.randn(2 if metadata.dynamic_batch else 1, channels, height, width)


def _table() -> dict[torch._ops.OperatorBase, object]:
    """Return what stands for each of our operators; standard ones stay as they are."""
    return {
        torch.ops.ctxvision.local_aggregation.default: portable.local_aggregation,
        torch.ops.ctxvision.contextual_conv2d.default: portable.contextual_conv2d,
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
