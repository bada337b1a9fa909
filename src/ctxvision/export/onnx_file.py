"""ONNX files: written whole, checked against torch by onnxruntime, with preprocessing and class names inside."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ctxvision.files import replacing
from ctxvision.inference.exported import KEY, ExportError, Metadata, open_exported

from .program import first_line, ready_to_export, trace
from .same import require_same, require_suffix
from .signature import Inputs, Operators, example_inputs, freedom, names_of, random_inputs
from .standard_nodes import expand

if TYPE_CHECKING:
    import onnx

OPSET = 20
_FOLDED = 2**26  # numbers of a weight
_LIMIT = 2**31 - 2**20  # bytes of one protobuf message


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Metadata,
    samples: Sequence[Tensor | Inputs] = (),
    tolerance: float = 1e-4,
    operators: Operators = "portable",
) -> float:
    """Write a network as ONNX, through `torch.export`, and check the file before it gets its name.

    Args:
        network: Network from images (B, C, H, W) to logits (B, N), or to what `from_task` returns for other tasks.
            It is exported on the CPU in float32, and not changed where it is elsewhere or otherwise.
        path: Path of the file to write; an existing one is replaced in one step, and stays if anything fails.
        metadata: Description that goes into the file; it says whether batch and size are dynamic.
        samples: Real inputs, such as batches of images (B, C, H, W), to compare on beside random ones.
        tolerance: Largest difference of an output, as a share of its largest value.
        operators: ``"portable"`` for standard operators, which every runtime knows; ``"native"`` for nodes that
            this library's kernels compute inside onnxruntime, see `register_operators`, and nothing else can.

    Returns:
        The largest difference that was found, as a share of the largest value of an output.

    Raises:
        ExportError: The network cannot be exported, or onnxruntime computes something else than torch.
        ImportError: The extra ``[export]`` is missing.
        OSError: The file cannot be written.
    """
    require_suffix(path, ".onnx")
    # before minutes of tracing, and not as a fault of the network
    for name in ("onnxruntime", "onnxscript"):
        import_module(name)

    import onnx
    from onnxscript.optimizer import fold_constants

    inputs, outputs = names_of(metadata)
    network = ready_to_export(network)
    with quiet():
        program = trace(network, example_inputs(metadata), freedom(metadata), operators="onnx nodes")
    if sum(p.numel() * p.element_size() for p in network.parameters()) > _LIMIT:
        raise ExportError("ONNX files hold at most 2 GB of weights; export .pt2 instead")
    with quiet():
        try:
            found = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=inputs, output_names=outputs
            )
            assert found is not None
            # weights as they are computed with, not transposed at every start: only those can be quantised
            fold_constants(found.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
            if operators == "portable":
                expand(found.model)
        except Exception as error:  # the exporter raises many kinds
            raise ExportError(f"this network has no ONNX ({first_line(error)})") from error
    found.model.metadata_props[KEY] = metadata.to_json()
    found.model.producer_name = "ctxvision"
    with replacing(path) as part:
        with quiet():
            onnx.save(_without_shapes_of_weights(found.model_proto), part)
        written = open_exported(part, trust=True)
        return require_same(network, written.run, metadata, [*random_inputs(metadata), *samples], tolerance)


def _without_shapes_of_weights(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Say the shape of a weight once: onnxruntime's quantiser transposes some, and would contradict the rest."""
    weights = {weight.name for weight in model.graph.initializer}
    values = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(values)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice to itself."""
    level = logging.getLogger("onnxscript").level
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("onnxscript").setLevel(level)
