"""ONNX files in onnxruntime."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .error import ExportError
from .onnx_nodes import DOMAIN, register_operators

if TYPE_CHECKING:
    import onnxruntime


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

    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


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
