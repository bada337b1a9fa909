"""``.pt2`` files: a graph of `torch.export` run as data, or, where it is trusted, by torch's own loader."""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctxvision.checkpoints import CheckpointError
from ctxvision.checkpoints.archive import ArchiveError
from ctxvision.checkpoints.finite import require_finite

from .opening import KEY, ExportError, Metadata
from .pt2_contents import MEMBER, NeedsTrustError, read_parts
from .pt2_graph import Graph


def open_pt2(path: str | os.PathLike[str], *, trust: bool = False) -> tuple[Any, Metadata]:
    """Open a ``.pt2`` file: a function of the graph's inputs, and what the file says about itself.

    Graphs of standard operators are run without torch's own loader, which executes what a file says: see `Graph`.
    Files that hold more, as those that AOTInductor compiled, are refused unless they are trusted.

    Args:
        path: Path of the file.
        trust: Whether code in the file may run.

    Raises:
        ExportError: The file is not a ``.pt2`` file, is damaged, or holds code, or weights that are no numbers.
    """
    path = Path(path)
    try:
        module, text = _open(path, trust)
    except ExportError:
        raise
    except (ArchiveError, OSError) as error:
        raise ExportError(f"{path}: not a .pt2 file, or damaged ({error})") from error
    except Exception as error:  # whatever wrong values lead to, in torch too
        raise ExportError(f"{path}: damaged, or of another version of torch") from error
    if not text:
        raise ExportError(f"{path}: not a file of `ctxvision export`, it says nothing about its images")

    metadata = Metadata.from_json(text, where=path, trust=trust)
    # what torch's tracer takes for granted, not the network
    way_out = (
        "; .pt2 files for any size need images that are larger than the network's greatest stride: enlarge them, "
        "or export to .onnx"
        if metadata.dynamic_size
        else ""
    )

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        try:
            with torch.inference_mode():
                found = module(*inputs)
        except (AssertionError, RuntimeError) as error:  # of a guard
            shape = " × ".join(map(str, inputs[0].shape))
            raise ExportError(f"the exported network does not take {shape} images ({error}){way_out}") from error
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run, metadata


def _open(path: Path, trust: bool) -> tuple[Any, str]:
    """Return what computes, and the text of the metadata."""
    try:
        with path.open("rb") as file:
            parts = read_parts(file)
        module = Graph(parts)
    except NeedsTrustError as error:
        if not trust:
            raise ExportError(
                f"{path}: refused, nothing in it was run: {error}; if you trust whoever made the file, allow it "
                "with --trust (trust=True)"
            ) from error
        return _open_trusted(path)
    try:
        require_finite(parts.weights, path)
        require_finite(parts.constants, path, infinity=True)  # as masks have it
    except CheckpointError as error:
        raise ExportError(str(error)) from error
    return module, parts.metadata


def _open_trusted(path: Path) -> tuple[Any, str]:
    """Let torch load a file, and with it whatever code is inside."""
    with zipfile.ZipFile(path) as archive:
        is_compiled = any("/data/aotinductor/" in name or name.endswith(".so") for name in archive.namelist())
        needed, place = sum(member.file_size for member in archive.infolist()), tempfile.gettempdir()
    if is_compiled:
        free = shutil.disk_usage(place).free
        # torch would leave a part there, and its error would not tell a full disk from a damaged file
        if free < needed:
            raise ExportError(
                f"{path}: torch unpacks {needed / 1e6:.1f} MB to {place}, where {free / 1e6:.1f} MB are free; "
                "make room, or name another folder with TMPDIR"
            )
        compiled: Any = torch._inductor.aoti_load_package(path)
        return compiled, compiled.get_metadata().get(KEY, "")
    extra: dict[str, Any] = {MEMBER: ""}
    module = torch.export.load(path, extra_files=extra).module()
    text = extra[MEMBER]
    return module, text.decode() if isinstance(text, bytes) else text
