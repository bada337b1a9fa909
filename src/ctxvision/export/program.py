"""A network as a graph of standard operators (`torch.export`), for any batch, and any size where it allows."""

import contextlib
import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from ctxvision.inference.exported import ExportError
from ctxvision.nn import fuse
from ctxvision.ops._exporting import Form, recording

from .pooling import adaptive_avg_pool2d

_LEAST = 128  # sides of an example for any size, so that no map becomes a pixel


def export_program(
    network: nn.Module, example: Tensor, *, dynamic_batch: bool = True, dynamic_size: bool = False
) -> ExportedProgram:
    """Trace a network of images in evaluation mode; our operators become standard ones.

    Args:
        network: Network that takes images (B, C, H, W); it is not changed.
        example: Images as the network takes them, (B, C, H, W). Larger ones are traced with where the graph would
            else be one for a single image, or for maps of one pixel.
        dynamic_batch: Whether the graph takes any number of images.
        dynamic_size: Whether the graph takes any height and width that the network takes.

    Returns:
        The graph, in float32 unless the network is not.

    Raises:
        ExportError: The network cannot be traced so.
    """
    dimensions: dict[int, object] = {}
    batch, channels, height, width = example.shape
    if dynamic_batch:
        dimensions[0] = Dim.DYNAMIC
        batch = max(batch, 2)
    if dynamic_size:
        dimensions |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        height, width = max(height, _LEAST), max(width, _LEAST)
        width += 32 if width == height else 0  # what is as high as wide is taken to be so always
    if (batch, channels, height, width) != example.shape:
        example = example.new_zeros((batch, channels, height, width))
    return trace(network, (example,), (dimensions,))


def trace(
    network: nn.Module,
    example: tuple[Tensor, ...],
    dimensions: tuple[dict[int, Any] | None, ...],
    *,
    operators: Form = "standard",
) -> ExportedProgram:
    """Trace a network of any inputs.

    Args:
        network: Network to trace; it is not changed.
        example: Arguments of the network to trace with, tensors of any shapes that it takes.
        dimensions: Dimensions of each input that may differ between calls.
        operators: What our operators become: ``"standard"`` ones that every runtime knows, ``"operators"``, which
            stay as they are for graphs that run in torch with this library, or ``"onnx nodes"`` of our own domain.

    Raises:
        ExportError: The network cannot be traced so.
    """
    network = _prepared(network, example)
    try:
        with torch.no_grad(), recording(operators), _Replacing():
            program = torch.export.export(network, example, dynamic_shapes=dimensions)
    except Exception as error:  # torch.export raises many kinds
        freedom = " for any size" if any(d and {2, 3} & d.keys() for d in dimensions) else ""
        raise ExportError(f"torch cannot export this network{freedom}: {first_line(error)}") from error
    # `torch.ops.ctxvision`, called by a network of somebody's own, is not asked for another form
    ours = sorted({str(n.target) for n in program.graph.nodes if str(n.target).startswith("ctxvision")})
    if ours and operators != "operators":
        raise ExportError(f"the graph still holds {', '.join(ours)}; call the functions of ctxvision.ops instead")
    return program


def _prepared(network: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy in evaluation mode, with BatchNorm folded into the layers before where it is known how."""
    if len(example) == 1:
        with contextlib.suppress(ValueError):
            return fuse(network, example[0])
    return copy.deepcopy(network).eval()


class _Replacing(TorchFunctionMode):
    """Calls what stands for a function that ONNX lacks while a network is traced."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func = adaptive_avg_pool2d if func is F.adaptive_avg_pool2d else func
        return func(*args, **(kwargs or {}))


def ready_to_export(network: nn.Module) -> nn.Module:
    """Return a network in evaluation mode, in float32 on the CPU: itself where it is so, else a copy."""
    tensors = (tensor for tensor in (*network.parameters(), *network.buffers()) if tensor.is_floating_point())
    as_it_is = all((tensor.device.type, tensor.dtype) == ("cpu", torch.float32) for tensor in tensors)
    if as_it_is and not any(module.training for module in network.modules()):
        return network
    return copy.deepcopy(network).to(device="cpu", dtype=torch.float32).eval()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
