"""ONNX files: written whole, checked against torch by onnxruntime, with preprocessing and class names inside."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .error import ExportError
from .metadata import KEY, Metadata
from .program import example_images, export_program
from .replacing import replacing

if TYPE_CHECKING:
    import onnxruntime

OPSET = 20
INPUT, OUTPUT = "images", "logits"
_LIMIT = 2**31 - 2**20  # bytes of one protobuf message


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Metadata,
    samples: Sequence[Tensor] = (),
    tolerance: float = 1e-4,
) -> float:
    """Write a network as ONNX, through `torch.export`, and check the file before it gets its name.

    Args:
        network: takes images (B, C, H, W) and returns logits (B, N); any device, exported on the CPU in float32.
        path: to write; a file there is replaced in one step, and stays if anything fails.
        metadata: goes into the file; says whether batch and size are dynamic.
        samples: batches of real images (B, C, H, W) to compare on, beside random ones of one and of three images.
        tolerance: largest difference of a logit, as a share of the batch's largest.

    Returns:
        The largest difference that was found, as a share.

    Raises:
        ExportError: it cannot be exported, or onnxruntime computes something else than torch.
        OSError: it cannot be written.
    """
    network = network.to(device="cpu", dtype=torch.float32).eval()
    size = tuple(metadata.data_spec["input_size"])
    program = export_program(
        network,
        example_images(metadata),
        dynamic_batch=metadata.dynamic_batch,
        dynamic_size=metadata.dynamic_size,
    )
    if sum(p.numel() * p.element_size() for p in network.parameters()) > _LIMIT:
        raise ExportError("ONNX files hold at most 2 GB of weights; export .pt2 instead")
    with _quiet():
        try:
            found = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT]
            )
        except Exception as error:  # the exporter raises many kinds
            raise ExportError(f"this network has no ONNX ({str(error).strip().splitlines()[0]})") from error
    assert found is not None
    found.model.metadata_props[KEY] = metadata.to_json()
    found.model.producer_name = "ctxvision"
    with replacing(Path(path)) as part:
        with _quiet():
            found.save(part, external_data=False)
        session = open_session(part)
        return _require_same(network, session, [*_random(metadata, size), *samples], tolerance)


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


def run_session(session: "onnxruntime.InferenceSession", images: Tensor) -> Tensor:
    """Compute logits (B, N) of images (B, C, H, W).

    Raises:
        ExportError: it takes other images.
    """
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(images.numpy())}
    try:
        return torch.from_numpy(session.run(None, feed)[0])
    except Exception as error:
        shape = " × ".join(map(str, images.shape))
        raise ExportError(f"the exported network does not take {shape} images ({_line(error)})") from error


def _random(metadata: Metadata, size: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    batches = [1, 3] if metadata.dynamic_batch else [1]
    found = [torch.randn(batch, *size, generator=generator) for batch in batches]
    if metadata.dynamic_size:
        channels, height, width = size
        found.append(torch.randn(batches[-1], channels, height + 32, width + 64, generator=generator))
    return found


def _require_same(
    network: nn.Module, session: "onnxruntime.InferenceSession", batches: Sequence[Tensor], tolerance: float
) -> float:
    worst = 0.0
    for images in batches:
        with torch.inference_mode():
            expected = network(images)
        found = run_session(session, images)
        if found.shape != expected.shape:
            raise ExportError(f"the exported network returns {tuple(found.shape)}, not {tuple(expected.shape)}")
        difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
        if not difference <= tolerance:
            raise ExportError(
                f"the exported network differs from torch's by {difference:.2g} of the largest logit, more than "
                f"{tolerance:g}"
            )
        worst = max(worst, difference)
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
