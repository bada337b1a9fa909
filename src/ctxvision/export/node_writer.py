"""Nodes written into an ONNX graph, in the place of one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_END = 2**63 - 1


class NodeWriter:
    """Writes the nodes that stand for one.

    Args:
        graph: The graph, which gets the constants.
        node: The node to replace, whose name begins theirs.
    """

    def __init__(self, graph: "ir.Graph", node: "ir.Node") -> None:
        import onnx_ir as ir

        self._ir, self._graph, self._name = ir, graph, str(node.name)
        self._tape = ir.tape.Tape()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @property
    def nodes(self) -> Sequence["ir.Node"]:
        """What has been written."""
        return self._tape.nodes

    def __call__(self, op_type: str, *inputs: "ir.Value", **attributes: Any) -> "ir.Value":
        """Write a node with one output."""
        return self.several(1, op_type, *inputs, **attributes)[0]

    def several(self, outputs: int, op_type: str, *inputs: "ir.Value", **attributes: Any) -> Sequence["ir.Value"]:
        """Write a node with several outputs."""
        made = self._tape.op_multi_out(op_type, inputs, attributes or None, num_outputs=outputs)
        for value in made:
            value.name = f"{self._name}_{op_type.lower()}_{len(self.nodes)}_{value.index()}"
        return made

    def constant(self, values: Any, kind: type = np.int64) -> "ir.Value":
        """Return a constant of integers, or of the numpy type ``kind``."""
        array: np.ndarray[Any, Any] = np.asarray(values, kind)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self._name}_constant_{len(self._constants)}"
            value = self._tape.initializer(self._ir.tensor(array, name=name))
            self._graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def padded(self, x: "ir.Value", before: Sequence[int], after: Sequence[int] | None = None) -> "ir.Value":
        """Write zeros around the last axes."""
        after = before if after is None else after
        if not any((*before, *after)):
            return x
        axes = list(range(-len(before), 0))
        zero = self.constant(0.0, np.float32)
        return self("Pad", x, self.constant([*before, *after]), zero, self.constant(axes))

    def sliced(self, x: "ir.Value", axis: int, place: slice) -> "ir.Value":
        """Write a slice of one axis."""
        start, stop = place.start or 0, _END if place.stop is None else place.stop
        bounds = (self.constant([n]) for n in (start, stop, axis, place.step or 1))
        return self("Slice", x, *bounds)

    def split(self, x: "ir.Value", axis: int, parts: int) -> Sequence["ir.Value"]:
        """Write a split into parts of one."""
        return self.several(parts, "Split", x, axis=axis, num_outputs=parts)

    def reshaped(self, x: "ir.Value", *sizes: int | None, of: "ir.Value | None" = None) -> "ir.Value":
        """Write a reshape: 0 copies an axis, -1 is what remains.

        Args:
            x: What is reshaped.
            sizes: The new shape. If its last two are ``None``, they are those of ``of``.
            of: Value whose last two axes count.
        """
        if None not in sizes:
            return self("Reshape", x, self.constant(sizes))
        assert of is not None
        fixed = self.constant(sizes[:-2])
        return self("Reshape", x, self("Concat", fixed, self("Shape", of, start=-2), axis=0))

    def axis(self, x: "ir.Value", axis: int) -> "ir.Value":
        """Return the length of an axis, a tensor of no axes, as a constant where it is known."""
        known = length(x, axis)
        if known is not None:
            return self.constant(known)
        return self("Squeeze", self("Shape", x, start=axis, end=axis + 1))


def length(x: "ir.Value", axis: int) -> int | None:
    """Return the length of an axis if it is the same for all inputs."""
    assert x.shape is not None
    found = x.shape[axis]
    return found if isinstance(found, int) else None


def known_length(x: "ir.Value", axis: int) -> int:
    """Return the length of an axis that every input has alike, as those of channels and taps."""
    found = length(x, axis)
    assert found is not None, f"axis {axis} of {x.name}"
    return found
