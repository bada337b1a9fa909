"""Runs a graph of `torch.export` node by node, from its JSON: a list of standard operators, and nothing else.

torch's own loader turns such a file into Python code: it unpickles tensors, evaluates shape expressions, executes
guards, writes names into source text and takes any function below ``torch`` as a node's target. Each of them runs
code of whoever made the file. Here names are keys, shapes need no expressions since every size is a node's
result, and a target is one of torch's operators on tensors, or the graph is refused.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torchvision.ops  # noqa: F401 - registers the operators of detectors
from torch import Tensor

import ctxvision.ops  # noqa: F401 - registers ours

from .pt2_contents import DTYPES, Guards, NeedsTrustError, Parts

Values = dict[str, Any]
Argument = Callable[[Values], Any]

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
# operators whose name begins with an underscore are torch's own business, but for these
_UNDERSCORED = {
    "_adaptive_avg_pool2d", "_assert_scalar", "_assert_tensor_metadata", "_local_scalar_dense", "_log_softmax",
    "_native_batch_norm_legit_no_training", "_softmax", "_to_copy", "_unsafe_index", "_unsafe_view",
    "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__", "__ixor__",
    "_scaled_dot_product_flash_attention_for_cpu",
}  # fmt: skip
# files, memory that is not theirs, other layouts and libraries
_REFUSED = re.compile(
    r"from_file|set_?|set_data|data|resize.*|.*storage.*|record_stream|.*pin_memory.*|.*(sparse|quantize|mkldnn|nested"
    r"|cudnn|miopen|fbgemm|fake_quant|coo|csr|csc|bsr|bsc).*|q_.*|qscheme|warn.*|print.*|save|load|rename.*|align_.*"
)
_OURS = {"local_aggregation", "contextual_conv2d"}  # which check their arguments
_TORCHVISION = {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"}
_ON_NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "eq", "ne", "lt", "le", "gt", "ge",
            "and_", "or_", "not_",
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    "torch.sym_max": max, "torch.sym_min": min, "torch.sym_not": operator.not_, "torch.sym_int": int,
    "torch.sym_float": float, "torch._sym_sqrt": math.sqrt, "torch.sym_ite": lambda this, a, b: a if this else b,
}  # fmt: skip
_WORDS = re.compile(r"|[A-Za-z_0-9]{1,24}|[A-Za-z.,\->\s]{1,80}")  # names of modes, equations of einsum
_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format
}  # fmt: skip
_LARGEST = 2**31  # values of a tensor that a graph may ask for outright
_SHAPES = {"size", "sizes", "repeats", "steps", "output_size", "end", "pad", "normalized_shape"}
_DEEPEST = 8  # graphs inside graphs


class Graph:
    """A function of tensors.

    Args:
        parts: Contents of an archive, as `read_parts` returns them.

    Raises:
        NeedsTrustError: The graph asks for more than operators on tensors.
        Exception: A value in the graph is wrong; the type of the exception depends on the value.
    """

    def __init__(self, parts: Parts) -> None:
        module, program = parts.program["graph_module"], parts.program
        graph, signature = module["graph"], module["signature"]
        self._fixed: Values = {}
        self.inputs: list[str] = []
        for spec in signature["input_specs"]:
            ((kind, about),) = spec.items()
            if kind == "user_input" and "as_tensor" in about["arg"]:
                self.inputs.append(about["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                name = about[f"{kind}_name"]
                tensors = parts.constants if name in parts.constants else parts.weights
                self._fixed[about["arg"]["name"]] = tensors[name]
            else:
                raise NeedsTrustError(f"it has an input of the kind {str(kind)[:40]!r}")
        if any("user_output" not in spec for spec in signature["output_specs"]):
            raise NeedsTrustError("it changes its own weights")
        # what the tracer called the arguments is what the conditions call them
        entry = next(e["signature"] for e in module["module_call_graph"] if e["fqn"] == "")
        called = entry["forward_arg_names"] or self.inputs
        metas = [graph["tensor_values"][name] for name in self.inputs]
        self._dtypes = [DTYPES[about["dtype"]] for about in metas]
        self._guards = Guards(
            called, metas, program.get("range_constraints", {}), program.get("guards_code") or []
        )
        self._body = _Body(graph, 0, keep=set(self._fixed))

    def __call__(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Compute.

        Raises:
            AssertionError: The inputs have other shapes than the graph was traced for.
            RuntimeError: Torch cannot compute an operator.
        """
        assert len(inputs) == len(self.inputs), f"takes {len(self.inputs)} inputs"
        for name, given, dtype in zip(self.inputs, inputs, self._dtypes, strict=True):
            assert given.dtype == dtype, f"Guard failed: {name}.dtype == {dtype}"
        self._guards.check(inputs)
        return self._body.run(dict(self._fixed) | dict(zip(self.inputs, inputs, strict=True)))


class _Body:
    """The nodes of a graph, in their order.

    Args:
        graph: Graph as JSON.
        depth: Number of graphs that this graph lies in.
        keep: Names of the values that stay in memory, as weights do.
    """

    def __init__(self, graph: Mapping[str, Any], depth: int, keep: set[str]) -> None:
        if depth > _DEEPEST:
            raise NeedsTrustError(f"it nests graphs more than {_DEEPEST} deep")
        self.inputs = [_result(place) for place in graph["inputs"]] if depth else []
        self.single = bool(graph.get("is_single_tensor_return"))
        self._outputs = [_argument(place)[0] for place in graph["outputs"]]
        self._steps: list[tuple[Callable[[Values], Any], list[str | None] | str | None]] = []
        used: list[list[str]] = []
        for node in graph["nodes"]:
            step, names = _step(node, depth)
            self._steps.append((step, _results(node)))
            used.append(names)
        # values are let go after their last use
        later = {name for place in graph["outputs"] for name in _argument(place)[1]} | keep
        self._last: list[list[str]] = [[] for _ in used]
        for index in reversed(range(len(used))):
            self._last[index] = [name for name in dict.fromkeys(used[index]) if name not in later]
            later.update(used[index])

    def run(self, values: Values) -> tuple[Any, ...]:
        for (step, names), done in zip(self._steps, self._last, strict=True):
            found = step(values)
            if isinstance(names, str):
                values[names] = found
            elif names is not None:
                values.update((name, one) for name, one in zip(names, found, strict=True) if name is not None)
            for name in done:
                del values[name]
        return tuple(output(values) for output in self._outputs)


def _results(node: Mapping[str, Any]) -> list[str | None] | str | None:
    """Say which names a node's result gets: one, one for each of several, or none."""
    names = [_result(place) for place in node["outputs"]]
    if len(names) == 1 and isinstance(names[0], list):
        return names[0]
    if len(names) == 1 and (
        "higher_order" not in node["target"] or node.get("is_hop_single_tensor_return") is not False
    ):
        return names[0]
    if any(isinstance(name, list) for name in names):
        raise NeedsTrustError(f"a node in it returns lists of lists ({str(node['target'])[:60]!r})")
    return names or None  # type: ignore[return-value]


def _result(place: Mapping[str, Any]) -> list[str | None] | str | None:
    ((kind, value),) = place.items()
    if kind == "as_tensor":
        return str(value["name"])
    if kind == "as_tensors":
        return [str(one["name"]) for one in value]
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return str(value["as_name"])
    if kind == "as_none":
        return None
    raise NeedsTrustError(f"a node in it returns {str(kind)[:40]!r}")


def _step(node: Mapping[str, Any], depth: int) -> tuple[Callable[[Values], Any], list[str]]:
    """Turn a node into a function of the values so far; also the names that it reads."""
    target = node["target"]
    if target == "torch.ops.higher_order.wrap_with_autocast":
        return _autocast(node, depth)
    arguments = [(str(one["name"]), *_argument(one["arg"])) for one in node["inputs"]]
    names = [name for _, _, used in arguments for name in used]
    if target in _ON_NUMBERS:
        function, places = _ON_NUMBERS[target], [argument for _, argument, _ in arguments]
        return lambda values: _bounded(function(*(place(values) for place in places))), names
    operator_ = _operator(target)
    for one in node["inputs"]:
        _require_moderate(target, str(one["name"]), one["arg"])
    given = {name: argument for name, argument, _ in arguments}
    first: list[Argument] = []
    for place in operator_._schema.arguments:
        if place.kwarg_only or place.name not in given:
            break
        first.append(given.pop(place.name))

    def step(values: Values) -> Any:
        return operator_(
            *(argument(values) for argument in first),
            **{name: argument(values) for name, argument in given.items()},
        )

    return step, names


def _operator(target: str) -> Any:
    """Find an operator on tensors.

    Raises:
        NeedsTrustError: The target is anything else.
    """
    found = _ATEN.fullmatch(target)
    if found:
        name, overload = found[1], found[2]
        allowed = (not name.startswith("_") or name in _UNDERSCORED) and not _REFUSED.fullmatch(name)
        full = f"aten::{name}" + ("" if overload == "default" else f".{overload}")
        # what TorchScript alone knows is on lists and strings
        if allowed and (name == "promote_types" or torch._C._dispatch_has_kernel(full)):
            return getattr(getattr(torch.ops.aten, name), overload)
    found = re.fullmatch(r"torch\.ops\.torchvision\.(\w+)\.default", target)
    if found and found[1] in _TORCHVISION:
        return getattr(torch.ops.torchvision, found[1]).default
    found = re.fullmatch(r"torch\.ops\.ctxvision\.(\w+)\.default", target)
    if found and found[1] in _OURS:
        return getattr(torch.ops.ctxvision, found[1]).default
    raise NeedsTrustError(f"it calls {str(target)[:80]!r}, which is not one of torch's operators on tensors")


def _autocast(node: Mapping[str, Any], depth: int) -> tuple[Callable[[Values], Any], list[str]]:
    """A part of the graph that computes at another precision."""
    device, dtype, enabled, cached, inner, *rest = (one["arg"] for one in node["inputs"])
    body = _Body(inner["as_graph"]["graph"], depth + 1, keep=set())
    setting = {
        "device_type": _argument(device)[0]({}), "dtype": _argument(dtype)[0]({}),
        "enabled": _argument(enabled)[0]({}), "cache_enabled": _argument(cached)[0]({}),
    }  # fmt: skip
    arguments = [_argument(one) for one in rest]

    def step(values: Values) -> Any:
        given = [argument(values) for argument, _ in arguments]
        with torch.autocast(**setting):
            found = body.run({str(name): one for name, one in zip(body.inputs, given, strict=True)})
        return found[0] if body.single else found

    return step, [name for _, used in arguments for name in used]


def _argument(given: Mapping[str, Any]) -> tuple[Argument, list[str]]:
    """Turn an argument into a function of the values so far; also the names that it reads."""
    ((kind, value),) = given.items()
    if kind == "as_tensor":
        return _read(value["name"])
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return _number(value)
    if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return _together([_number(one) for one in value])
    if kind == "as_tensors":
        return _together([_read(one["name"]) for one in value])
    if kind == "as_optional_tensors":
        return _together([_argument(one) for one in value])
    if kind == "as_optional_tensor":
        return _argument(value)
    constant = _constant(kind, value)
    return (lambda values: constant), []


def _constant(kind: str, value: Any) -> Any:
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_float", "as_bool"):
        return _plain(value)
    if kind in ("as_ints", "as_floats", "as_bools"):
        return [_plain(one) for one in value]
    if kind == "as_string":
        if not _WORDS.fullmatch(value) and "assertion" not in value:
            raise NeedsTrustError(f"it gives an operator the text {value[:60]!r}")
        return value
    if kind == "as_scalar_type":
        return DTYPES[value]
    if kind == "as_memory_format":
        return _FORMATS[value]
    if kind == "as_layout" and value == 7:
        return torch.strided
    if kind == "as_device" and value["type"] == "cpu":
        return torch.device("cpu")
    raise NeedsTrustError(f"it gives an operator {str(kind)[:40]!r} {str(value)[:40]!r}")


def _plain(value: Any) -> Any:
    if value in ("Infinity", "-Infinity", "NaN"):  # as torch writes them
        return float(value)
    if not isinstance(value, bool | int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _read(name: str) -> tuple[Argument, list[str]]:
    return (lambda values: values[name]), [name]


def _number(value: Mapping[str, Any]) -> tuple[Argument, list[str]]:
    ((kind, found),) = value.items()
    if kind == "as_name":
        return _read(found)
    number = _plain(found)
    return (lambda values: number), []


def _together(arguments: Sequence[tuple[Argument, list[str]]]) -> tuple[Argument, list[str]]:
    places = [argument for argument, _ in arguments]
    return (lambda values: [place(values) for place in places]), [name for _, used in arguments for name in used]


def _bounded(value: Any) -> Any:
    """Keep sizes what they are in torch, numbers of 64 bits."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RuntimeError(f"a size of {value.bit_length()} bits")
    return value


def _require_moderate(target: str, name: str, given: Mapping[str, Any]) -> None:
    """Refuse tensors of absurd size before they are asked for."""
    if name not in _SHAPES or target.startswith("torch.ops.aten.slice"):
        return
    ((kind, value),) = given.items()
    numbers = value if kind == "as_ints" else [value] if kind == "as_int" else []
    if math.prod(max(abs(int(number)), 1) for number in numbers) > _LARGEST:
        raise NeedsTrustError(
            f"it asks for {name} {str(value)[:60]} of {target.removeprefix('torch.ops.aten.')[:40]}"
        )
