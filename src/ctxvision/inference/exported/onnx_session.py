"""ONNX files in onnxruntime."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .error import ExportError

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
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own kinds, without a common base
        raise ExportError(f"{path}: not an ONNX file that onnxruntime can run ({_line(error)})") from error


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
