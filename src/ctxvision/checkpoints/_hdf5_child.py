"""Reads a Keras HDF5 file in a process of its own; see `keras_file`, which starts it.

The HDF5 library is C code that believes what a file says of itself. Here a file that makes it crash, hang or ask
for memory ends this process alone. Only h5py, NumPy and safetensors are imported.

Exit codes: 0, the arrays are in OUT; `REFUSED`, the reason is the only line of the output.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

REFUSED = 3
_SECONDS = 120
_SPARE_BYTES = 2**30  # for Python, NumPy and h5py themselves
_MOST_NAMES = 100_000


class Refused(Exception):
    """The file is not one that Keras writes; the message says why."""


def main(source: str, destination: str) -> None:
    """Write the arrays of a Keras file as safetensors, by ``layer/weight``, and its layers' names in order."""
    size = os.path.getsize(source)
    _limit_process(_SPARE_BYTES + 4 * size)
    import h5py
    import safetensors.numpy

    arrays = {}
    with h5py.File(source, "r") as file:
        root = _child(file, "model_weights") if "model_weights" in file else file
        if not isinstance(root, h5py.Group):
            raise Refused("its model_weights are no group")
        layers, left = list(_names(root, "layer_names")), size
        for layer in layers:
            group = _child(root, layer)
            if not isinstance(group, h5py.Group):
                raise Refused(f"its layer {layer[:80]!r} is no group")
            for name in _names(group, "weight_names"):
                dataset = _child(group, name)
                _check(dataset, name)
                left -= dataset.nbytes
                if left < 0:
                    raise Refused(f"its arrays claim more bytes than the file has ({size:,})")
                key = f"{layer}/{name.rpartition('/')[2].partition(':')[0]}"
                if key in arrays:
                    raise Refused(f"it holds {key[:80]!r} twice")
                arrays[key] = dataset[()].astype(dataset.dtype.newbyteorder("="), copy=False)
    try:
        safetensors.numpy.save_file(arrays, destination, {"layers": json.dumps(layers)})
    except (OSError, safetensors.SafetensorError) as error:  # of which the file that is read is innocent
        folder, why = os.path.dirname(destination), " ".join(str(error).split())[:200]
        raise Refused(f"its arrays cannot be written to {folder} ({why})") from error


def _limit_process(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _names(group: Any, attribute: str) -> Iterator[str]:
    """Return names listed in an attribute, which Keras splits into ``NAME0``, ``NAME1``, ... where it is long."""
    parts = [attribute] if attribute in group.attrs else []
    while not parts or parts[-1] != attribute:
        if f"{attribute}{len(parts)}" not in group.attrs:
            break
        parts.append(f"{attribute}{len(parts)}")
    if not parts:
        raise Refused(f"it is HDF5, but not of Keras: no {attribute} in {group.name[:80]!r}")
    for part in parts:
        about = group.attrs.get_id(part)
        if len(about.shape) != 1 or about.shape[0] > _MOST_NAMES:
            raise Refused(f"its {part} are no list of names")
        for value in group.attrs[part]:  # texts may be references to one long text: memory is limited, see above
            name = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            if not isinstance(name, str):
                raise Refused(f"its {part} are no list of names")
            yield name


def _child(group: Any, name: str) -> Any:
    """Open a member by the names on the way; links that lead elsewhere, also out of the file, are refused."""
    import h5py

    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise Refused(f"the name {name[:80]!r} in it leads elsewhere")
        if not isinstance(group, h5py.Group) or part not in group:
            raise Refused(f"{name[:80]!r} is missing in it")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise Refused(f"{name[:80]!r} in it is a link to elsewhere")
        group = group[part]
    return group


def _check(dataset: Any, name: str) -> None:
    """Refuse what is not floating-point numbers that lie in this file, uncompressed, as Keras writes them."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise Refused(f"{name[:80]!r} in it is no array of floating-point numbers")
    if dataset.is_virtual or dataset.external:
        raise Refused(f"the numbers of {name[:80]!r} lie in another file")
    # without filters nothing unpacks to more than it takes in the file
    if dataset.id.get_create_plist().get_nfilters() or dataset.id.get_storage_size() < dataset.nbytes:
        raise Refused(f"{name[:80]!r} in it is compressed or lacks numbers; Keras writes none so")


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[3])  # what the parent imports from: nothing of the folder that we are in
    try:
        main(sys.argv[1], sys.argv[2])
    except Refused as error:
        print(error)
        sys.exit(REFUSED)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, UnicodeError) as error:
        summary = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, MemoryError) or "memory allocation failed" in summary:
            print("it unpacks to much more than its size")
        else:
            print(f"truncated or damaged ({summary})")
        sys.exit(REFUSED)
