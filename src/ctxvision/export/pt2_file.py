"""``.pt2`` files: the graph of `torch.export`, which AOTInductor compiles, or what it has compiled."""

import io
import os
import shutil
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctxvision.files import full_disk, replacing
from ctxvision.inference.exported import KEY, ExportError, Metadata, open_exported
from ctxvision.inference.exported.pt2_contents import MEMBER

from .program import first_line, ready_to_export, trace
from .same import require_same, require_suffix
from .signature import Inputs, Operators, example_inputs, freedom, names_of, random_inputs


def export_pt2(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Metadata,
    samples: Sequence[Tensor | Inputs] = (),
    tolerance: float = 1e-4,
    operators: Operators = "native",
    compiled: bool = False,
) -> float:
    """Write a network as a graph of torch's operators and, unless it is to be portable, our two.

    Args:
        network: Network from images (B, C, H, W) to logits (B, N), or to what `from_task` returns for other tasks.
            It is exported on the CPU in float32, and not changed where it is elsewhere or otherwise.
        path: Path of the file to write; an existing one is replaced in one step, and stays if anything fails.
        metadata: Description that goes into the file; it says whether batch and size are dynamic.
        samples: Real inputs, such as batches of images (B, C, H, W), to compare on beside random ones.
        tolerance: Largest difference of an output, as a share of its largest value.
        operators: ``"native"`` for our operators as they are: the file runs where this library is imported, as
            fast as the network; ``"portable"`` for standard operators, which torch runs without this library.
        compiled: Whether AOTInductor translates the graph for this machine's processor, which needs a C++
            compiler.

    Returns:
        The largest difference to the network, as a share of the largest value of an output.

    Raises:
        ExportError: The network cannot be exported or compiled, or the file computes something else.
        OSError: The file cannot be written.
    """
    require_suffix(path, ".pt2")
    names_of(metadata)
    network = ready_to_export(network)
    program = trace(
        network,
        example_inputs(metadata),
        freedom(metadata),
        operators="operators" if operators == "native" else "standard",
    )
    with replacing(path) as part:
        content = io.BytesIO()  # where a disk is full, torch's own writer ends the whole process
        if compiled:
            _compile(program, content, metadata)
        else:
            torch.export.save(program, content, extra_files={MEMBER: metadata.to_json()})
        part.write_bytes(content.getbuffer())
        del content
        written = open_exported(part, trust=True)
        return require_same(network, written.run, metadata, [*random_inputs(metadata), *samples], tolerance)


def _compile(program: torch.export.ExportedProgram, content: io.BytesIO, metadata: Metadata) -> None:
    # freezing packs weights once, and lets element-wise work run inside of convolutions; it asks for no gradients
    options = {"aot_inductor.metadata": {KEY: metadata.to_json()}, "freezing": True}
    try:
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(program, package_path=content, inductor_configs=options)
    except Exception as error:  # of the compiler, too
        if full := full_disk(error):
            from torch._inductor.runtime.cache_dir_utils import cache_dir

            places = (cache_dir(), tempfile.gettempdir())  # to which compilers write
            fullest = min(places, key=lambda folder: shutil.disk_usage(folder).free)
            raise OSError(full.errno, full.strerror, full.filename or fullest) from error
        why = first_line(error)
        raise ExportError(f"AOTInductor cannot compile this network here ({why}); leave out --aot") from error
