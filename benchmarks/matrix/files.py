"""Exported networks, written once and kept: the name of a file says what it was made of."""

import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import nn

import ctxvision
from benchmarks.matrix.plan import AOT, NATIVE, PORTABLE
from ctxvision.export import Metadata, export_onnx, export_pt2, quantize_onnx
from ctxvision.timing.clock import device_name

_SOURCES = ("ops", "nn", "models", "export")  # what graphs are made by
_IMAGES = 16  # to calibrate on


@cache
def _made_by() -> str:
    """Return a digest of torch's version and of our code that writes graphs."""
    digest = hashlib.sha256(torch.__version__.encode())
    root = Path(ctxvision.__file__).parent
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*.[pc]*")):
            if path.suffix in (".py", ".cpp"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def exported(network: nn.Module, name: str, form: str, dtype: str, size: int, folder: Path) -> Path:
    """Return the file of a network, which is written if it is not there.

    Args:
        network: The network, in evaluation mode.
        name: Name of the network.
        form: `PORTABLE`, `NATIVE` or `AOT`.
        dtype: ``float32`` or ``int8``.
        size: Height and width of the images in pixels; their number is free.
        folder: Folder of the files.

    Raises:
        ExportError: The network cannot be exported.
    """
    made = _made_by()
    if form == AOT:  # machine code, in which the number of threads is fixed
        about = f"{device_name(torch.device('cpu'))} {torch.get_num_threads()}"
        made += "-" + hashlib.sha256(about.encode()).hexdigest()[:6]
    path = folder / f"{name}-{size}-{form}-{dtype}-{made}{'.pt2' if form == AOT else '.onnx'}"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    metadata = Metadata(name, "classification", {"class_names": [], "input_size": [3, size, size]})
    if dtype == "int8":
        source = exported(network, name, form, "float32", size, folder)
        images = torch.randn(_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(1))
        quantize_onnx(source, path, images.split(4), input_name="images")
    elif form == AOT:
        export_pt2(network, path, metadata=metadata, compiled=True)
    else:
        assert form in (PORTABLE, NATIVE)
        export_onnx(network, path, metadata=metadata, operators="native" if form == NATIVE else "portable")
    return path
