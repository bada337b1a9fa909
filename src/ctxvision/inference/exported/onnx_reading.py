"""``.onnx`` files: what they ask of onnxruntime is looked at before they are opened there."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctxvision.checkpoints import CheckpointError
from ctxvision.checkpoints.finite import require_finite
from ctxvision.tasks.limits import TRUST

from .onnx_nodes import DOMAIN, OPERATORS, register_operators
from .opening import ExportError

if TYPE_CHECKING:
    import onnx
    import onnxruntime


_DOMAINS = ("", "ai.onnx", DOMAIN)
_REPEATED = ("Loop", "Scan")  # may go on for any time
_SIZED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Reshape": 1, "Resize": 3, "Range": 1, "OneHot": 1}
_WEIGHTS = re.compile("weight|bias|running_(mean|var)")  # the others may be masks, with infinity
_LARGEST = 2**31  # values of a tensor that a graph asks for outright


def require_harmless(path: str | os.PathLike[str]) -> None:
    """Refuse a graph that reads other files, repeats itself without end, or whose weights are no numbers.

    Raises:
        ExportError: The graph does one of these, or the file is damaged.
        ImportError: The extra ``[export]`` is missing.
    """
    import onnx

    path = Path(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf, whose errors have no base in common with others
        raise ExportError(f"{path}: not an ONNX file, or damaged") from error
    _require(path, not model.functions, "it defines functions of its own")
    known: dict[str, Any] = {}
    numbers: dict[str, torch.Tensor] = {}
    try:
        for graph in _graphs(model.graph):
            for tensor in (*graph.initializer, *(one.values for one in graph.sparse_initializer)):
                _require_inside(path, tensor)
                values = onnx.numpy_helper.to_array(tensor)
                if values.dtype.kind == "f":
                    numbers[tensor.name] = torch.from_numpy(np.array(values, np.float32))
                elif values.size <= 16:
                    known[tensor.name] = values
            for node in graph.node:
                _require_moderate(path, node, known)
        require_finite(numbers, path, infinity=True)
        require_finite({name: one for name, one in numbers.items() if _WEIGHTS.search(name)}, path)
    except CheckpointError as error:
        raise ExportError(str(error)) from error
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise ExportError(f"{path}: damaged: its weights are not what it says ({_line(error)})") from error


def _graphs(graph: "onnx.GraphProto") -> Iterator["onnx.GraphProto"]:
    """Yield a graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _require_inside(path: Path, tensor: "onnx.TensorProto") -> None:
    _require(
        path,
        tensor.data_location != tensor.EXTERNAL and not tensor.external_data,
        f"the weights {tensor.name[:60]!r} lie in another file",
    )


def _require_moderate(path: Path, node: "onnx.NodeProto", known: dict[str, Any]) -> None:
    import onnx

    _require(path, node.domain in _DOMAINS, f"it uses operators of the domain {node.domain[:60]!r}")
    known_here = node.domain != DOMAIN or node.op_type in OPERATORS
    _require(path, known_here, f"it uses an operator {node.op_type[:60]!r} that this version does not have")
    _require(path, node.op_type not in _REPEATED, f"it repeats a part of itself ({node.op_type})")
    for attribute in node.attribute:
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            _require_inside(path, tensor)
            if node.op_type == "Constant" and node.output:
                known[node.output[0]] = onnx.numpy_helper.to_array(tensor)
    place = _SIZED.get(node.op_type, -1)
    if 0 <= place < len(node.input):
        asked = known.get(node.input[place])
        if asked is not None and asked.size <= 16:
            count = math.prod(max(abs(int(one)), 1) for one in asked.flat)
            _require(path, count <= _LARGEST, f"{node.op_type} asks for a tensor of {count:,} values")


def _require(path: Path, holds: bool, otherwise: str) -> None:
    if not holds:
        raise ExportError(f"{path}: refused: {otherwise}; {TRUST}")


def open_session(path: str | os.PathLike[str]) -> "onnxruntime.InferenceSession":
    """Open an ONNX file with onnxruntime on the CPU, with as many threads as torch uses.

    Raises:
        ExportError: The file is not an ONNX file, or is damaged.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        try:
            return _session(path, options)
        except Exception as error:
            if f"{DOMAIN}:" not in str(error):
                raise
            return _session(path, register_operators(options))  # written with --ops native
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error
    except Exception as error:  # onnxruntime has its own kinds, without a common base
        raise ExportError(f"{path}: not an ONNX file that onnxruntime can run ({_line(error)})") from error


def _session(
    path: str | os.PathLike[str], options: "onnxruntime.SessionOptions"
) -> "onnxruntime.InferenceSession":
    import onnxruntime

    return onnxruntime.InferenceSession(
        os.fspath(path),
        options,
        providers=["CPUExecutionProvider"],
        # it moves transposes of int8 convolutions past shapes of another rank, and contextual networks fail (1.31)
        disabled_optimizers=["NhwcTransformer"],
    )


def run_session(session: "onnxruntime.InferenceSession", *inputs: Tensor) -> tuple[Tensor, ...]:
    """Compute what the graph returns, for images (B, C, H, W): logits (B, N).

    Raises:
        ExportError: The graph takes images of another shape.
    """
    named = zip(session.get_inputs(), inputs, strict=True)
    feed = {place.name: np.ascontiguousarray(given.numpy()) for place, given in named}
    try:
        return tuple(torch.from_numpy(found) for found in session.run(None, feed))
    except Exception as error:
        shape = " × ".join(map(str, inputs[0].shape))
        raise ExportError(f"the exported network does not take {shape} images ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
