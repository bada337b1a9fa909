"""What is inside a ``.pt2`` file of `torch.export`, read as data: nothing is unpickled, imported or evaluated."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile

import torch
from torch import Tensor

from ctxvision.checkpoints.archive import ArchiveError, load_pickled, open_archive

from .metadata import KEY

MEMBER = f"{KEY}.json"
_GRAPH = "models/model.json"
_LARGEST_GRAPH = 2**26  # bytes of JSON, each of which takes some twenty of memory
_HARMLESS = (".data/", ".format/", "byteorder", "version", "archive_format", "archive_version", "extra/")
_SAMPLES = "data/sample_inputs/"  # a pickle, which is not opened
# numbers of torch._export.serde.schema.ScalarType
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip


class NeedsTrustError(ValueError):
    """A file holds code, or what is not understood without running it; the message is the reason."""


class Parts(NamedTuple):
    """An archive's contents.

    Attributes:
        program: Graph and all that belongs to it, as JSON.
        weights: Parameters and buffers by name.
        constants: Other tensors by name.
        metadata: Text that this library wrote, or an empty text.
    """

    program: dict[str, Any]
    weights: dict[str, Tensor]
    constants: dict[str, Tensor]
    metadata: str


def read_parts(file: BinaryIO) -> Parts:
    """Read an archive.

    Args:
        file: Archive, open for reading in binary mode and seekable.

    Raises:
        NeedsTrustError: The archive holds more than a graph and plain tensors.
        ArchiveError: The file is damaged, or no such archive.
        Exception: A value in the archive is wrong; the type of the exception depends on the value.
    """
    with open_archive(file) as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0] if names else ""
        members = {name.removeprefix(f"{root}/"): name for name in names}
        code = next((name for name in members if name.endswith((".so", ".dll", ".dylib", ".pyd"))), None)
        code = code or next((name for name in members if name.startswith("data/aotinductor/")), None)
        if code:
            raise NeedsTrustError(f"it holds compiled code ({code[:80]!r})")
        if "serialized_exported_program.json" in names:
            raise NeedsTrustError("it is of torch before 2.8, whose weights are pickles")
        if any(not name.startswith(f"{root}/") for name in names) or _GRAPH not in members:
            raise ArchiveError("it holds no graph of torch.export")
        known = (*_HARMLESS, _SAMPLES, "data/weights/", "data/constants/", _GRAPH)
        strange = next((name for name in members if not name.startswith(known)), None)
        if strange:
            raise NeedsTrustError(f"it holds {strange[:80]!r}, which no graph of ours has")
        text = archive.read(members[f"extra/{MEMBER}"]).decode() if f"extra/{MEMBER}" in members else ""
        if archive.getinfo(members[_GRAPH]).file_size > _LARGEST_GRAPH:
            raise NeedsTrustError(f"its graph has more than {_LARGEST_GRAPH >> 20} MiB")
        program = json.loads(archive.read(members[_GRAPH]))
        weights = _tensors(archive, members, "data/weights/", "model_weights_config.json")
        constants = _tensors(archive, members, "data/constants/", "model_constants_config.json")
    return Parts(program, weights, constants, text)


def _tensors(archive: ZipFile, members: Mapping[str, str], folder: str, config: str) -> dict[str, Tensor]:
    """Rebuild the tensors that a configuration lists, views of common memory included."""
    if f"{folder}model.pt" in members:  # of torch 2.8
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place, "model.pt")
            copy.write_bytes(archive.read(members[f"{folder}model.pt"]))
            try:
                with copy.open("rb") as again:
                    found = load_pickled(again)
            except Exception as error:  # whatever a pickle may lead to
                raise NeedsTrustError(f"'{folder}model.pt' holds more than tensors") from error
            if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
                raise NeedsTrustError(f"'{folder}model.pt' holds more than tensors")
            return {name: value.detach().clone() for name, value in found.items()}
    memory: dict[tuple[str, torch.dtype], Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, entry in json.loads(archive.read(members[folder + config]))["config"].items():
        path, about = entry["path_name"], entry["tensor_meta"]
        if entry["use_pickle"] is not False or about is None:
            raise NeedsTrustError(f"{name[:80]!r} in it is a pickle")
        if not path.startswith(("weight_", "tensor_")):
            raise NeedsTrustError(f"{name[:80]!r} in it is not a tensor")
        dtype = DTYPES[about["dtype"]]
        if (path, dtype) not in memory:
            data = bytearray(archive.read(members[folder + path]))
            memory[path, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        sizes, strides = ([int(n["as_int"]) for n in about[key]] for key in ("sizes", "strides"))
        if 0 in sizes:
            tensors[name] = torch.empty(sizes, dtype=dtype)
        else:  # which refuses to reach beyond the memory
            offset = int(about["storage_offset"]["as_int"])
            tensors[name] = memory[path, dtype].as_strided(sizes, strides, offset)
    return tensors
