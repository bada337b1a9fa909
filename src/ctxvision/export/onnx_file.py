"""ONNX files: written whole, checked against torch by onnxruntime, with preprocessing and class names inside."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.files import replacing

from .error import ExportError
from .metadata import KEY, Metadata
from .program import trace
from .same import require_same
from .signature import Inputs, example_inputs, freedom, names_of, random_inputs

if TYPE_CHECKING:
    import onnxruntime

OPSET = 20
_LIMIT = 2**31 - 2**20  # bytes of one protobuf message


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Metadata,
    samples: Sequence[Tensor | Inputs] = (),
    tolerance: float = 1e-4,
) -> float:
    """Write a network as ONNX, through `torch.export`, and check the file before it gets its name.

    Args:
        network: takes images (B, C, H, W) and returns logits (B, N), or what `from_task` returns for other tasks;
            any device, exported on the CPU in float32.
        path: file to write; an existing one is replaced in one step, and stays if anything fails.
        metadata: goes into the file; says whether batch and size are dynamic.
        samples: real inputs, such as batches of images (B, C, H, W), to compare on beside random ones.
        tolerance: largest difference of an output, as a share of its largest value.

    Returns:
        The largest difference that was found, as a share.

    Raises:
        ExportError: it cannot be exported, or onnxruntime computes something else than torch.
        ImportError: the extra ``[export]`` is missing.
        OSError: it cannot be written.
    """
    # before minutes of tracing, and not as a fault of the network
    for name in ("onnxruntime", "onnxscript"):
        import_module(name)

    inputs, outputs = names_of(metadata)
    network = network.to(device="cpu", dtype=torch.float32).eval()
    with quiet():
        program = trace(network, example_inputs(metadata), freedom(metadata))
    if sum(p.numel() * p.element_size() for p in network.parameters()) > _LIMIT:
        raise ExportError("ONNX files hold at most 2 GB of weights; export .pt2 instead")
    with quiet():
        try:
            found = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=inputs, output_names=outputs
            )
        except Exception as error:  # the exporter raises many kinds
            raise ExportError(f"this network has no ONNX ({str(error).strip().splitlines()[0]})") from error
    assert found is not None
    found.model.metadata_props[KEY] = metadata.to_json()
    found.model.producer_name = "ctxvision"
    with replacing(path) as part:
        with quiet():
            found.save(part, external_data=False)
        session = open_session(part)
        trials = [*random_inputs(metadata), *samples]
        return require_same(network, lambda *given: run_session(session, *given), metadata, trials, tolerance)


def open_session(path: str | os.PathLike[str]) -> "onnxruntime.InferenceSession":
    """Open an ONNX file with onnxruntime on the CPU, with as many threads as torch uses.

    Raises:
        ExportError: it is none, or damaged.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own kinds, without a common base
        raise ExportError(f"{path}: not an ONNX file that onnxruntime can run ({_line(error)})") from error


def run_session(session: "onnxruntime.InferenceSession", *inputs: Tensor) -> Inputs:
    """Compute what the graph returns, for images (B, C, H, W): logits (B, N).

    Raises:
        ExportError: it takes other images.
    """
    named = zip(session.get_inputs(), inputs, strict=True)
    feed = {place.name: np.ascontiguousarray(given.numpy()) for place, given in named}
    try:
        return tuple(torch.from_numpy(found) for found in session.run(None, feed))
    except Exception as error:
        shape = " × ".join(map(str, inputs[0].shape))
        raise ExportError(f"the exported network does not take {shape} images ({_line(error)})") from error


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
