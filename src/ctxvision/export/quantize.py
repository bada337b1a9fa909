"""Integers of 8 bits after training: convolutions and matrix products of an ONNX file, calibrated on images."""

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from ctxvision.files import full_disk, replacing
from ctxvision.inference.exported import KEY, ExportError, Metadata

_QUANTIZED = ["Conv", "MatMul", "Gemm"]


def quantize_onnx(
    source: str | os.PathLike[str], path: str | os.PathLike[str], batches: Iterable[Tensor], *, input_name: str
) -> None:
    """Write an int8 copy of a float ONNX file (onnxruntime's static quantisation, QDQ, per channel).

    Weights are symmetric int8 per output channel; activations uint8, with the range that they have on the
    calibration images.

    Args:
        source: Path of a file of `export_onnx`.
        path: Path of the file to write; an existing one is replaced in one step, and stays if anything fails.
        batches: Batches of calibration images, each (B, C, H, W); a few hundred images are enough.
        input_name: Name of the graph's input.

    Raises:
        ExportError: There are no images, or onnxruntime cannot quantise this network.
        OSError: The file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader = _reader(batches, input_name)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's advice goes to the root logger
    try:
        with replacing(path) as part:
            try:
                quantize_static(
                    os.fspath(source),
                    part,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=_QUANTIZED,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    # of 7 bits: processors with AVX2 and without VNNI add two products of 8 bits in 16, which
                    # overflow there
                    reduce_range=True,
                )
            except Exception as error:  # onnxruntime raises many kinds
                if full := full_disk(error):
                    raise full from error
                if not reader.count:
                    raise ExportError("quantisation needs images to calibrate on, and got none") from error
                raise ExportError(f"onnxruntime cannot quantise this network ({error})") from error
            model = onnx.load(part)
            for entry in model.metadata_props:
                if entry.key == KEY:
                    entry.value = _as_int8(entry.value)
            onnx.save(model, part)
    finally:
        logging.getLogger().setLevel(level)


def _as_int8(text: str) -> str:
    import dataclasses

    return dataclasses.replace(Metadata.from_json(text), quantization="int8").to_json()


def _reader(batches: Iterable[Tensor], name: str) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """What onnxruntime asks for images."""

        def __init__(self) -> None:
            self.count = 0
            self._left: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            images = next(self._left, None)
            if images is None:
                return None
            self.count += len(images)
            return {name: np.ascontiguousarray(images.numpy())}

    return Reader()
