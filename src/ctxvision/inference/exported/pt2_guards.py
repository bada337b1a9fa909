"""Conditions on the shapes of a graph's inputs, as `torch.export` writes them: read by a grammar, never run."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .pt2_archive import NeedsTrustError

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
