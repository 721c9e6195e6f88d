"""What a library may compute of a graph when it is loaded: bounded, so that a few bytes do not become gigabytes.

onnxruntime computes every node whose inputs are constants, and those that need nothing but sizes where sizes are fixed.
"""

import math

from edgekit.runtime.graphs.model import MOST_RANK, WHOLE, Model, Node
from edgekit.runtime.graphs.protobuf import UnreadableError

LEAST_FOLDED = 16 << 20
"""Bytes up to which any one value may be computed at loading."""
_NUMBER_BYTES = 8  # of the widest number
_MOST_DERIVED = 1024  # nodes that may be computed at loading once sizes are known
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
_DIVIDING = frozenset({b"Div", b"Mod"})
# Which input holds a number for each dimension.
_DIMENSIONS = {
    b"ConstantOfShape": (0,), b"Expand": (1,), b"Reshape": (1,), b"Slice": (1, 2, 3, 4), b"Squeeze": (1,),
    b"Unsqueeze": (1,),
}  # fmt: skip
_FEWER = frozenset({b"Slice", b"Split"})
_CHOOSING = frozenset({b"Equal", b"Max", b"Min", b"Mod", b"Where"})
_GATHERING = frozenset({b"Gather", b"GatherND"})
_RANKS = {b"NonZero": 2, b"Range": 1, b"Shape": 1}
_CONTRIB_RANK = 4  # of attention's caches
_HIGHEST_RANK = 64  # of a bound, which is wide where it is not known what a graph reshapes to
_MANY = 1 << 62


def largest_folded(model: Model) -> int:
    """Return the bytes of the largest value that may be computed at loading, LEAST_FOLDED at least.

    Numbers are counted in the widest type that there is. Raises UnreadableError where constants grow, where a value may
    have more dimensions than any kernel takes, where whole numbers are divided by what may not fit, and where names do
    not tell what is constant: one that comes twice, or is read before it is written.
    """
    values = _Values(model)
    for node in model.nodes:
        values.add(node)
    return values.largest * _NUMBER_BYTES


class _Values:
    """Every value named so far: how many numbers it has if it is a constant, None if it is none.

    ``lengths``: how many numbers it has at most, None where that is free until the graph runs or not followed.
    """

    def __init__(self, model: Model) -> None:
        self._stored = {tensor.name: tensor for tensor in model.tensors}
        stored: dict[bytes, int | None] = {tensor.name: tensor.elements for tensor in model.tensors}
        inputs = {value.name: value.elements for value in model.inputs}
        if len(stored) != len(model.tensors):
            raise UnreadableError("two stored tensors of one name")
        if len(inputs) != len(model.inputs) or inputs.keys() & stored.keys():
            raise UnreadableError("an input that has the name of another, or of a stored tensor")
        self._counts: dict[bytes, int | None] = dict.fromkeys(inputs) | stored
        self._lengths: dict[bytes, int | None] = inputs | stored
        self._ranks = {value.name: value.rank for value in model.inputs}
        self._ranks |= {tensor.name: tensor.rank for tensor in model.tensors}
        self._whole = {tensor.name for tensor in model.tensors if tensor.whole}  # or may be, of constants and sizes
        self._sizes: set[bytes] = set()  # what needs nothing but sizes and constants
        self._derived = 0
        self._left = LEAST_FOLDED // _NUMBER_BYTES + _TIMES * sum(tensor.elements for tensor in model.tensors)
        self.largest = LEAST_FOLDED // _NUMBER_BYTES

    def add(self, node: Node) -> None:
        """Take the outputs of the next node."""
        read = [name for name in node.inputs if name]
        missing = [name for name in read if name not in self._counts]
        if missing:
            raise UnreadableError(f"{node} reads '{_shown(missing[0])}', which nothing before it writes")
        rank = self._rank(node)
        if rank > _HIGHEST_RANK:
            raise UnreadableError(f"{node}, whose result may have more than {MOST_RANK} dimensions")
        self._check_divisor(node)
        result, length = None, self._length(node)
        if all(self._counts[name] is not None for name in read):
            result = length = self._folded(node, [self._counts[name] or 0 for name in read])
        elif node.op == b"Shape":
            self._sizes.update(node.outputs)
        elif all(self._counts[name] is not None or name in self._sizes for name in read):
            self._sizes.update(node.outputs)
            self._derived += 1
            if self._derived > _MOST_DERIVED:
                raise UnreadableError(f"{node}, after {_MOST_DERIVED} others that need nothing but sizes")
        typed = node.inputs[node.op == b"Where" :][:1]  # the input whose type the result has
        if node.kind in WHOLE or (node.op != b"Cast" and (node.op == b"Shape" or self._whole.issuperset(typed))):
            self._whole.update(node.outputs)
        for name in filter(None, node.outputs):
            if name in self._counts:
                raise UnreadableError(f"{node} writes '{_shown(name)}', which is there already")
            self._counts[name], self._lengths[name], self._ranks[name] = result, length, rank

    def _rank(self, node: Node) -> int:
        """Return how many dimensions the results of a node have at most."""
        ranks = [self._ranks[name] if name else 0 for name in node.inputs]
        highest = max(ranks, default=0)
        if node.domain:
            return max(highest, _CONTRIB_RANK)
        rank = _RANKS.get(node.op, highest)
        if node.op in _DIMENSIONS:
            size = max((self._dimensions(node.inputs[at]) for at in _DIMENSIONS[node.op] if at < len(ranks)), default=1)
            rank = {b"Unsqueeze": highest + size, b"Reshape": size, b"ConstantOfShape": size}.get(
                node.op, max(highest, size)
            )
        elif node.op in _GATHERING and len(ranks) > 1:
            rank = ranks[0] + ranks[1] - 1
        return rank

    def _dimensions(self, name: bytes) -> int:
        """Return how many numbers an input holds at most that has one for each dimension."""
        if not name:
            return 0
        length = self._lengths[name]
        most = _HIGHEST_RANK if self._counts[name] is None else MOST_RANK
        if (length is None and name in self._sizes) or (length or 0) > most:
            return _MANY  # computed at loading, by an op that is not followed, or more than there are
        return MOST_RANK if length is None else min(length, MOST_RANK)

    def _length(self, node: Node) -> int | None:
        """Return how many numbers each result of a node has at most; None if that is free, or not followed."""
        given = [self._lengths[name] for name in node.inputs if name]
        known = [length for length in given if length is not None]
        flat = all(self._ranks[name] <= 1 for name in node.inputs if name)
        length = None
        if node.op == b"Shape":
            length = self._ranks.get(node.inputs[0], 0) if node.inputs else None
        elif node.domain or not given:
            pass
        elif node.op == b"Gather" and len(given) > 1:
            length = given[1] if self._ranks.get(node.inputs[0], MOST_RANK) <= 1 else None
        elif node.op in _AS_MANY or node.op in _FEWER:
            length = given[0]
        elif len(known) == len(given) and node.op == b"Concat":
            length = sum(known)
        elif len(known) == len(given) and node.op in _STRETCHING | _CHOOSING:
            length = max(known) if flat else min(_MANY, math.prod(max(1, one) for one in known))
        return length

    def _check_divisor(self, node: Node) -> None:
        """Raise UnreadableError where a whole number is divided by one that may be -1: the least of all ends a process.

        Source: the quotient of the least number of two's complement and -1 does not fit, which x86 takes for an error.
        """
        if node.op not in _DIVIDING or node.domain or len(node.inputs) < 2:
            return
        divisor = self._stored.get(node.inputs[1])
        if divisor is None:
            name = node.inputs[1]
            if name in self._whole and (name in self._sizes or self._counts.get(name) is not None):
                raise UnreadableError(f"{node}, by what follows from constants or sizes, which may be anything")
        elif divisor.whole and (divisor.numbers is None or min(divisor.numbers, default=1) < 1):
            raise UnreadableError(f"{node}, by whole numbers that are not told, or not above 0")

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
