"""What a library may compute of a graph when it is loaded: bounded, so that a few bytes do not become gigabytes.

onnxruntime computes every node whose inputs are constants, and those that need nothing but sizes where sizes are fixed.
"""

import math

from edgekit.runtime.graphs.model import Model, Node
from edgekit.runtime.graphs.protobuf import UnreadableError

LEAST_FOLDED = 16 << 20
"""Bytes up to which any one value may be computed at loading."""
_NUMBER_BYTES = 8  # of the widest number
_MOST_DERIVED = 4096  # nodes that may be computed at loading once sizes are known
_TIMES = 4  # of all stored numbers: so many may be computed from them at loading, step by step
# Ops that give as many numbers as their first input has, and ops whose inputs stretch to each other. Others are not
# written on constants alone: their result would be stored instead.
_AS_MANY = frozenset(
    {
        b"Abs", b"Cast", b"DequantizeLinear", b"Exp", b"Identity", b"Log", b"Neg", b"Reshape", b"Sigmoid", b"Sqrt",
        b"Squeeze", b"Transpose", b"Unsqueeze",
    }
)  # fmt: skip
_STRETCHING = frozenset({b"Add", b"Div", b"Mul", b"Sub"})


def largest_folded(model: Model) -> int:
    """Return the bytes of the largest value that may be computed at loading, LEAST_FOLDED at least.

    Numbers are counted in the widest type that there is. Raises UnreadableError where constants grow, and where names
    do not tell what is constant: one that comes twice, or is read before it is written.
    """
    values = _Values(model)
    for node in model.nodes:
        values.add(node)
    return values.largest * _NUMBER_BYTES


class _Values:
    """Every value named so far: how many numbers it has if it is a constant, None if it is none."""

    def __init__(self, model: Model) -> None:
        stored = {tensor.name: tensor.elements for tensor in model.tensors}
        inputs: dict[bytes, int | None] = dict.fromkeys(model.inputs)
        if len(stored) != len(model.tensors):
            raise UnreadableError("two stored tensors of one name")
        if len(inputs) != len(model.inputs) or inputs.keys() & stored.keys():
            raise UnreadableError("an input that has the name of another, or of a stored tensor")
        self._counts: dict[bytes, int | None] = {**inputs, **stored}
        self._sizes: set[bytes] = set()  # what needs nothing but sizes and constants
        self._derived = 0
        self._left = LEAST_FOLDED // _NUMBER_BYTES + _TIMES * sum(stored.values())
        self.largest = LEAST_FOLDED // _NUMBER_BYTES

    def add(self, node: Node) -> None:
        """Take the outputs of the next node."""
        read = [name for name in node.inputs if name]
        missing = [name for name in read if name not in self._counts]
        if missing:
            raise UnreadableError(f"{node} reads '{_shown(missing[0])}', which nothing before it writes")
        result = None
        if all(self._counts[name] is not None for name in read):
            result = self._folded(node, [self._counts[name] or 0 for name in read])
        elif node.op == b"Shape":
            self._sizes.update(node.outputs)
        elif all(self._counts[name] is not None or name in self._sizes for name in read):
            self._sizes.update(node.outputs)
            self._derived += 1
            if self._derived > _MOST_DERIVED:
                raise UnreadableError(f"{node}, after {_MOST_DERIVED} others that need nothing but sizes")
        for name in filter(None, node.outputs):
            if name in self._counts:
                raise UnreadableError(f"{node} writes '{_shown(name)}', which is there already")
            self._counts[name] = result

    def _folded(self, node: Node, counts: list[int]) -> int:
        """Return how many numbers a node of constants gives at most."""
        if not counts or node.domain or node.op not in _AS_MANY | _STRETCHING:
            raise UnreadableError(f"{node} of constants alone, whose result would have to be stored instead")
        result = counts[0] if node.op in _AS_MANY else math.prod(counts)
        self._left -= result
        if self._left < 0:
            raise UnreadableError(f"{node}, of {result} numbers that would be computed from constants at loading")
        self.largest = max(self.largest, result)
        return result


def _shown(name: bytes) -> str:
    return name.decode(errors="replace")
