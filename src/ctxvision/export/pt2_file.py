"""``.pt2`` files: the graph of `torch.export`, which AOTInductor compiles, or what it has compiled."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .error import ExportError
from .metadata import KEY, Metadata
from .program import trace
from .replacing import replacing
from .same import require_same
from .signature import Inputs, example_inputs, freedom, names_of, random_inputs

_MEMBER = f"{KEY}.json"


def export_pt2(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Metadata,
    samples: Sequence[Tensor | Inputs] = (),
    tolerance: float = 1e-4,
    compiled: bool = False,
) -> float:
    """Write a network as a graph of standard operators; it needs this library no more.

    Args:
        network: takes images (B, C, H, W) and returns logits (B, N), or what `from_task` returns for other tasks;
            exported on the CPU in float32.
        path: to write; a file there is replaced in one step, and stays if anything fails.
        metadata: goes into the file; says whether batch and size are dynamic.
        samples: real inputs, such as batches of images (B, C, H, W), to compare on beside random ones.
        tolerance: largest difference of an output, as a share of its largest value.
        compiled: let AOTInductor translate the graph for this machine's processor; needs a C++ compiler.

    Returns:
        The largest difference to the network, as a share of the largest value of an output.

    Raises:
        ExportError: it cannot be exported or compiled, or computes something else.
        OSError: it cannot be written.
    """
    names_of(metadata)
    network = network.to(device="cpu", dtype=torch.float32).eval()
    program = trace(network, example_inputs(metadata), freedom(metadata))
    with replacing(Path(path)) as part:
        if compiled:
            _compile(program, part, metadata)
        else:
            torch.export.save(program, part, extra_files={_MEMBER: metadata.to_json()})
        written, _ = open_pt2(part)
        return require_same(network, written, metadata, [*random_inputs(metadata), *samples], tolerance)


def open_pt2(path: str | os.PathLike[str]) -> tuple[Any, Metadata]:
    """Open a file of `export_pt2`: a function of the graph's inputs, and what the file says about itself.

    Like every ``.pt2`` it may hold code: open only files of people that you trust.

    Raises:
        ExportError: it is none, or damaged.
    """
    path = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path}: not a .pt2 file") from error
    try:
        if any(name.endswith(".so") for name in names):
            module: Any = torch._inductor.aoti_load_package(path)
            text = module.get_metadata().get(KEY, "")
        elif any(name.endswith(f"/{_MEMBER}") for name in names):
            extra = {_MEMBER: ""}
            module = torch.export.load(path, extra_files=extra).module()
            text = extra[_MEMBER]
        else:
            text = ""
    except Exception as error:  # torch raises many kinds
        raise ExportError(f"{path}: damaged, or of another version of torch") from error
    if isinstance(text, bytes):
        text = text.decode()
    if not text:
        raise ExportError(f"{path}: not a file of `ctxvision export`, it says nothing about its images")

    metadata = Metadata.from_json(text)
    # what torch's tracer takes for granted, not the network
    way_out = (
        "; .pt2 files for any size need images that are larger than the network's greatest stride: enlarge them, "
        "or export to .onnx"
        if metadata.dynamic_size
        else ""
    )

    def run(*inputs: Tensor) -> Inputs:
        try:
            with torch.inference_mode():
                found = module(*inputs)
        except (AssertionError, RuntimeError) as error:  # of a guard
            shape = " × ".join(map(str, inputs[0].shape))
            raise ExportError(f"the exported network does not take {shape} images ({error}){way_out}") from error
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run, metadata


def _compile(program: torch.export.ExportedProgram, path: Path, metadata: Metadata) -> None:
    options = {"aot_inductor.metadata": {KEY: metadata.to_json()}}
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except Exception as error:  # of the compiler, too
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"AOTInductor cannot compile this network here ({line}); leave out --aot") from error
