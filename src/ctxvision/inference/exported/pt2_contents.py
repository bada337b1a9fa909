"""What is inside a ``.pt2`` file of `torch.export`, read as data: nothing is unpickled, imported or evaluated."""

import ast
import json
import math
import operator
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile

import torch
from torch import Tensor

from ctxvision.checkpoints.archive import ArchiveError, load_pickled, open_archive

from .opening import KEY

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


Shapes = Mapping[str, Sequence[int]]
Value = Callable[[Shapes], Any]

_LONGEST = 20_000  # characters of a condition
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch.sym_max": max, "torch.sym_min": min, "Max": max, "Min": min, "max": max, "min": min,
    "torch.sym_not": operator.not_, "torch.sym_int": int, "torch.sym_float": float, "int": int, "float": float,
    "math.floor": math.floor, "math.ceil": math.ceil, "math.trunc": math.trunc,
}  # fmt: skip
_SYMBOL = re.compile(r"Symbol\('([a-z]+\d+)'(?:, \w+=True)*\)|([a-z]+\d+)")


class Guards:
    """Tells whether inputs have the shapes that a graph was traced for.

    Args:
        names: Names of the inputs, in their order.
        metas: Description of each input in the graph, as JSON.
        ranges: Smallest and largest value of each symbol that stands for a free dimension, as JSON.
        conditions: Python expressions of ``L['name'].size()[0]``.

    Raises:
        NeedsTrustError: A condition is more than arithmetic of sizes.
    """

    def __init__(
        self,
        names: Sequence[str],
        metas: Sequence[Mapping[str, Any]],
        ranges: Mapping[str, Mapping[str, Any]],
        conditions: Sequence[str],
    ) -> None:
        self._names = tuple(names)
        self._sizes = [tuple(_size(value) for value in about["sizes"]) for about in metas]
        self._ranges = {
            str(name): (_whole(limits.get("min_val")), _whole(limits.get("max_val")))
            for name, limits in ranges.items()
        }
        self._conditions = [(text, _condition(text, self._names)) for text in conditions]
        self._known: set[tuple[tuple[int, ...], ...]] = set()

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise `AssertionError`, which names the condition, for inputs that the graph was not traced for."""
        shapes = tuple(tuple(given.shape) for given in inputs)
        if shapes in self._known:
            return
        symbols: dict[str, int] = {}
        for name, sizes, shape in zip(self._names, self._sizes, shapes, strict=True):
            assert len(sizes) == len(shape), f"{name} has {len(sizes)} dimensions"
            for place, (wanted, given) in enumerate(zip(sizes, shape, strict=True)):
                what = f"{name}.size()[{place}]"
                if isinstance(wanted, int):
                    assert given == wanted, f"Guard failed: {what} == {wanted}"
                elif wanted:
                    assert symbols.setdefault(wanted, given) == given, f"Guard failed: {what} differs"
                    least, most = self._ranges.get(wanted, (None, None))
                    # the tracer's 2 says that 0 and 1 were not looked at, as torch reads it, too
                    assert least is None or least <= 2 or given >= least, f"Guard failed: {what} >= {least}"
                    assert most is None or given <= most, f"Guard failed: {what} <= {most}"
        by_name = dict(zip(self._names, shapes, strict=True))
        for text, holds in self._conditions:
            assert holds(by_name), f"Guard failed: {text}"
        if len(self._known) < 1000:
            self._known.add(shapes)


def _size(value: Mapping[str, Any]) -> int | str:
    """Return a size, or the symbol that stands for it; empty for more than a symbol, which conditions cover."""
    if "as_int" in value:
        return int(value["as_int"])
    found = _SYMBOL.fullmatch(value["as_expr"]["expr_str"])
    return (found[1] or found[2]) if found else ""


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _condition(text: str, names: Sequence[str]) -> Value:
    try:
        if len(text) > _LONGEST:
            raise ValueError
        return _value(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        shown = " ".join(str(text).split())[:80]
        raise NeedsTrustError(f"a condition in it is more than arithmetic of sizes ({shown!r})") from error


def _value(node: ast.expr, names: Sequence[str]) -> Value:
    match node:
        case ast.Constant(value=bool() | int() | float() as constant):
            return lambda shapes: constant
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _call(_BINARY[type(op)], _value(left, names), _value(right, names))
        case ast.UnaryOp(ast.USub(), operand):
            return _call(operator.neg, _value(operand, names))
        case ast.UnaryOp(ast.Not(), operand):
            return _call(operator.not_, _value(operand, names))
        case ast.Compare(left, [op], [right]) if type(op) in _COMPARISONS:
            return _call(_COMPARISONS[type(op)], _value(left, names), _value(right, names))
        case ast.BoolOp(op, values):
            return _call(all if isinstance(op, ast.And) else any, *(_value(v, names) for v in values), packed=True)
        case ast.Call(function, arguments, []) if ast.unparse(function) in _FUNCTIONS:
            return _call(_FUNCTIONS[ast.unparse(function)], *(_value(a, names) for a in arguments))
        case ast.Subscript(
            ast.Call(ast.Attribute(ast.Subscript(ast.Name("L"), ast.Constant(str() as name)), "size"), [], []),
            ast.Constant(int() as place),
        ) if name in names:
            return lambda shapes: shapes[name][place]
        case _:
            raise ValueError(ast.unparse(node))


def _call(function: Callable[..., Any], *values: Value, packed: bool = False) -> Value:
    if packed:
        return lambda shapes: function(value(shapes) for value in values)
    return lambda shapes: function(*(value(shapes) for value in values))
