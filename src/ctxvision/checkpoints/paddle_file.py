"""Paddle's ``.pdparams`` files, read from strangers: a pickle that may hold numbers and nothing else."""

import io
import math
import pickle
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .error import CheckpointError, name_some

_PARAMETER_NAMES = "StructuredToParameterName@@"  # Paddle's table of its inner names
_SPLIT = "UnpackBigParamInfor@@"  # how protocols 2 and 3 cut arrays of a gigabyte
_BUFFERS = {"_mean": "running_mean", "_variance": "running_var"}
_KINDS = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}
_MOST_AXES = 32
_MOST_STEPS = 100_000  # of the pickle; RedNet-152's file takes some 40,000
_MOST_RARE_STEPS = 1_000
_MOST_TUPLES = 30_000  # the hash of tuples within tuples takes stack: of 200,000 it crashes Python
_COMMON_STEPS = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "REDUCE", "BUILD", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3",
}  # fmt: skip
"""What arrays of numbers are pickled with."""


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is no array; the message says for what."""


class _Kind:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: object = None, *_: object) -> None:
        if not isinstance(code, str) or len(code) > 8:
            raise _Refused("a type of number that is no text")
        self.code, self.order = code, "<"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">"):
            raise _Refused("a type of number in an unknown order of bytes")
        self.order = order


class _Array:
    """Stands in for ``numpy.ndarray``: keeps what the pickle says of it, and allocates nothing."""

    state: tuple[tuple[int, ...], _Kind, bool, bytes] | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array whose state is none")
        _, shape, kind, by_columns, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes) or type(by_columns) is not bool:
            raise _Refused("an array that is not made of numbers")
        if kind.code not in _KINDS:
            raise _Refused(f"an array of {kind.code!r}, not of floating-point numbers")
        sides = shape if isinstance(shape, tuple) and len(shape) <= _MOST_AXES else (None,)
        if not all(type(side) is int and 0 <= side < 2**40 for side in sides):
            raise _Refused("an array of an impossible shape")
        if math.prod(sides) * _KINDS[kind.code].itemsize != len(data):
            raise _Refused(f"an array of shape {sides} with {len(data):,} bytes")
        self.state = sides, kind, by_columns, data

    def tensor(self) -> Tensor:
        """Return a copy of the numbers."""
        if self.state is None:
            raise _Refused("an array without numbers")
        sides, kind, by_columns, data = self.state
        dtype = _KINDS[kind.code]
        if not data:
            return torch.empty(sides, dtype=dtype)
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if kind.order != ("<" if sys.byteorder == "little" else ">"):
            flat = flat.view(-1, dtype.itemsize).flip(1).flatten()
        values = flat.view(dtype)
        return values.view(sides[::-1]).permute(*reversed(range(len(sides)))) if by_columns else values.view(sides)


class _Maker:
    """Calls a function of ours for the pickle, which cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise _Refused("a state for a function")


def _empty_dict(*items: object) -> OrderedDict[object, object]:
    """Stand in for ``OrderedDict``, which pickles fill afterwards; to copy a dict again and again is refused."""
    if items:
        raise _Refused("a dict that is made of another")
    return OrderedDict()


class _Unpickler(pickle.Unpickler):
    """Knows arrays of floating-point numbers and nothing else; nothing that a file names is imported."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._left = len(data)
        self._known: dict[tuple[str, str], Any] = {
            ("numpy", "dtype"): _Maker(_Kind),
            ("numpy", "ndarray"): "numpy.ndarray",  # only ever handed to _reconstruct
            ("numpy.core.multiarray", "_reconstruct"): _Maker(_Array),
            ("numpy._core.multiarray", "_reconstruct"): _Maker(_Array),
            ("_codecs", "encode"): _Maker(self._encoded),
            ("collections", "OrderedDict"): _Maker(_empty_dict),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise _Refused(f"it asks for {module}.{name}")
        return self._known[module, name]

    def persistent_load(self, pid: object) -> NoReturn:
        raise _Refused("it asks for something outside the file")

    def _encoded(self, text: object, encoding: object = None) -> bytes:
        """Stand in for ``_codecs.encode``, by which protocol 2 writes bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused("bytes in another encoding")
        self._left -= len(text)
        if self._left < 0:  # one text, encoded again and again
            raise _Refused("more bytes than the file has")
        return text.encode("latin1")


def read_paddle(path: Path) -> dict[str, Tensor]:
    """Read a file of ``paddle.save(layer.state_dict(), path)``.

    Args:
        path: Path of the file, a pickle of protocol 2 to 4; its name does not matter.

    Returns:
        Tensors by name as torch has them: statistics are ``running_mean`` and ``running_var``, with counters of
        batches at zero, and weights of linear layers are ``(out, in)``.

    Raises:
        CheckpointError: The file is damaged, holds code, or holds anything else than arrays of numbers.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    try:
        _require_moderate(data)
        content = _Unpickler(data).load()
    except _Refused as error:
        raise CheckpointError(path, _refusal(str(error))) from error
    except Exception as error:  # damaged bytes may raise anything
        summary = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(path, f"truncated or damaged ({summary}); download it again") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(path, f"holds a {type(content).__name__}, not a state dict")
    if _SPLIT in content:
        raise CheckpointError(path, "holds arrays of more than a gigabyte in pieces, which no network of ours has")
    tensors: dict[str, Tensor] = {}
    strange, left = [], len(data)
    for name, entry in content.items():
        if name == _PARAMETER_NAMES:
            continue
        array = _array(entry)
        if array is None or array.state is None or not isinstance(name, str):
            strange.append(str(name)[:80])
            continue
        left -= len(array.state[-1])
        if left < 0:  # one array under many names
            raise CheckpointError(path, _refusal("more bytes than the file has"))
        _add(tensors, name, array.tensor())
    if strange:
        raise CheckpointError(
            path, f"not a state dict: {len(strange)} entries are no arrays ({name_some(strange)})"
        )
    return tensors


def _require_moderate(data: bytes) -> None:
    """Refuse a pickle that takes memory or time out of proportion to what it holds, before it is read.

    A byte of it may make an empty set of two hundred, or a tuple around all before it; numbers may be chosen so
    that a dict compares each with all; and for a memo room is made up to its highest number.
    """
    rare = tuples = 0
    for step, (operation, argument, position) in enumerate(pickletools.genops(data)):
        rare += operation.name not in _COMMON_STEPS
        tuples += operation.name.startswith("TUPLE")
        if step > _MOST_STEPS or rare > _MOST_RARE_STEPS or tuples > _MOST_TUPLES:
            raise _Refused("more steps than arrays of numbers take")
        if operation.name in ("LONG_BINPUT", "PUT") and (argument or 0) > len(data):
            raise _Refused("it asks for room that it does not fill")
        if operation.name == "NEXT_BUFFER":
            raise _Refused("its numbers lie outside the file")
        if operation.name == "STOP" and (position or 0) + 1 != len(data):
            raise ValueError("something follows its end")


def _refusal(reason: str) -> str:
    if reason.startswith("it asks for "):
        return (
            f"refused: a pickle with code in it ({reason}); none of it was executed; get a file of plain tensors, "
            "such as torch.save(model.state_dict(), …) writes"
        )
    return f"refused: a pickle, but not of plain arrays ({reason}); none of it was executed"


def _array(entry: object) -> _Array | None:
    """Return the array of an entry: itself, or in Paddle's pair of an inner name and an array."""
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        entry = entry[1]
    return entry if isinstance(entry, _Array) else None


def _add(tensors: dict[str, Tensor], name: str, value: Tensor) -> None:
    layer, _, kind = name.rpartition(".")
    if kind in _BUFFERS:
        tensors[f"{layer}.{_BUFFERS[kind]}"] = value
        if kind == "_variance":
            tensors[f"{layer}.num_batches_tracked"] = torch.tensor(0)
    else:
        tensors[name] = (value.T if value.ndim == 2 else value).contiguous()
