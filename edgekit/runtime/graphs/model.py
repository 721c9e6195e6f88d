"""The parts of an ONNX file that decide whether it may be loaded, read without the onnx package.

What no dialect writes is refused where it stands: graphs inside nodes, functions, training, metadata, strings, sparse
tensors. Source of the numbers: onnx/onnx.proto, IR version 12.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgekit.runtime.graphs.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Field,
    Message,
    Reader,
    Span,
    UnreadableError,
)

MOST_FIELDS = 4_000_000  # of a file; a node has about 15
MOST_NODES = 1 << 17  # twice those of the largest graph that is written
MOST_RANK = 8
MOST_INSIDE = 64  # numbers of a tensor that is a node's attribute
_MOST_BYTES = 1 << 62

# Bits of an element by its number in TensorProto.DataType; strings and complex numbers are not taken.
BITS: Mapping[int, int] = MappingProxyType(
    {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
)
_STRING = 8

_ONE, _MANY, _NUMBER = Field(), Field(many=True), Field((VARINT,))
_NUMBERS = Field((BYTES, VARINT), many=True)
_MODEL = Message(
    "a model",
    {1: _NUMBER, 2: _ONE, 3: _ONE, 4: _ONE, 5: _NUMBER, 6: _ONE, 7: _ONE, 8: _MANY},
    {14: "metadata", 20: "training information", 25: "functions of its own", 26: "devices of its own"},
)
_OPSET = Message("an opset", {1: _ONE, 2: _NUMBER}, {})
_GRAPH = Message(
    "a graph",
    {1: _MANY, 2: _ONE, 5: _MANY, 10: _ONE, 11: _MANY, 12: _MANY, 13: _MANY},
    {14: "quantisation annotations", 15: "sparse initializers", 16: "metadata"},
)
_NODE = Message(
    "a node",
    {1: _MANY, 2: _MANY, 3: _ONE, 4: _ONE, 5: _MANY, 6: _ONE, 7: _ONE},
    {8: "an overload", 9: "metadata", 10: "devices of its own"},
)
_ATTRIBUTE = Message(
    "an attribute",
    {
        1: _ONE, 2: Field((FIXED32,)), 3: _NUMBER, 4: _ONE, 5: _ONE, 7: Field((BYTES, FIXED32), many=True),
        8: _NUMBERS, 13: _ONE, 20: _NUMBER,
    },
    {
        6: "a graph inside it", 9: "strings", 10: "tensors", 11: "graphs inside it", 14: "a type", 15: "types",
        21: "a reference", 22: "a sparse tensor", 23: "sparse tensors",
    },
)  # fmt: skip
_TENSOR = Message(
    "a tensor",
    {
        1: _NUMBERS, 2: _NUMBER, 4: Field((BYTES, FIXED32), many=True), 5: _NUMBERS, 7: _NUMBERS, 8: _ONE, 9: _ONE,
        10: Field((BYTES, FIXED64), many=True), 11: _NUMBERS, 12: _ONE, 13: _MANY, 14: _NUMBER,
    },
    {3: "segments", 6: "strings", 16: "metadata"},
)  # fmt: skip
_ENTRY = Message("an entry of external data", {1: _ONE, 2: _ONE}, {})
_VALUE = Message("a value", {1: _ONE, 2: _ONE, 3: _ONE}, {4: "metadata"})
_TYPE = Message(
    "a type", {1: _ONE}, {4: "a sequence", 5: "a map", 6: "a denotation", 8: "a sparse tensor", 9: "an optional"}
)
_TENSOR_TYPE = Message("a tensor's type", {1: _NUMBER, 2: _ONE}, {})
_SHAPE = Message("a shape", {1: _MANY}, {})
_SIZE = Message("a size", {1: _NUMBER, 2: _ONE}, {3: "a denotation"})
# Fields of a tensor that hold its numbers, and the bytes of each; 0 for varints.
_TYPED = {4: 4, 5: 0, 7: 0, 10: 8, 11: 0}
_KEYS = (b"location", b"offset", b"length")
# Attributes of a convolution that kernels divide by, unasked.
_STEPS, _LONGEST_STEP = frozenset({b"dilations", b"group", b"kernel_shape", b"strides"}), 1 << 20
WHOLE = {6: "<i4", 7: "<i8"}
"""Types of TensorProto.DataType whose quotients may not fit."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored tensor of ``size`` bytes: ``location`` and ``offset`` where they lie in another file, None if here.

    ``whole``: whether its numbers are whole ones of a sign; ``numbers``: those, where they are few and lie here.
    """

    name: bytes
    rank: int
    elements: int
    size: int
    location: bytes | None = None
    offset: int = 0
    whole: bool = False
    numbers: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """An input: how many dimensions and numbers it has at most, the latter None where a size is free."""

    name: bytes
    rank: int
    elements: int | None


@dataclass(frozen=True, slots=True)
class Node:
    """One node. ``kind``: the number of the type that a Cast gives, 0 of any other node."""

    domain: bytes
    op: bytes
    name: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    kind: int = 0

    def __str__(self) -> str:
        where = f"{self.domain.decode(errors='replace')}." if self.domain else ""
        return f"{where}{self.op.decode(errors='replace')} '{self.name.decode(errors='replace')}'"


@dataclass(frozen=True, slots=True)
class Model:
    """A whole file: versions, inputs, stored tensors and nodes in their order."""

    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[Value, ...]
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]


def read_model(data: bytes) -> Model:
    """Return a graph file's Model. Raises UnreadableError for what is none, or has what no dialect writes."""
    if data[4:8] == b"ORTM":
        raise UnreadableError("a model in onnxruntime's own format, which no dialect writes")
    reader = Reader(data, MOST_FIELDS)
    model = reader.read((0, len(data)), _MODEL)
    if 7 not in model or 1 not in model:
        raise UnreadableError("no graph and version in it")
    graph = reader.read(_span(model[7][0]), _GRAPH)
    opsets: dict[str, int] = {}
    for each in model.get(8, ()):
        opset = reader.read(_span(each), _OPSET)
        domain = _text(reader, opset, 1).decode(errors="replace")
        if domain in opsets:
            raise UnreadableError(f"two opsets of '{domain}'")
        opsets[domain] = _number(opset, 2)
    for number in (12, 13):
        for value in graph.get(number, ()):
            _value(reader, _span(value))
    if (nodes := len(graph.get(1, ()))) > MOST_NODES:
        raise UnreadableError(f"{nodes} nodes, at most {MOST_NODES} are taken")
    return Model(
        _number(model, 1),
        opsets,
        tuple(_value(reader, _span(value)) for value in graph.get(11, ())),
        tuple(_tensor(reader, _span(tensor)) for tensor in graph.get(5, ())),
        tuple(_node(reader, _span(node)) for node in graph.get(1, ())),
    )


def _node(reader: Reader, span: Span) -> Node:
    fields, kind = reader.read(span, _NODE), 0
    for each in fields.get(5, ()):
        attribute = reader.read(_span(each), _ATTRIBUTE)
        name = _text(reader, attribute, 1)
        if name == b"to":
            kind = _number(attribute, 3)
        if name in _STEPS:
            steps = [*map(_signed_number, attribute.get(3, ())), *reader.numbers(attribute.get(8, []), MOST_INSIDE)]
            if not all(1 <= step <= _LONGEST_STEP for step in steps):
                raise UnreadableError(f"a window whose {name.decode()} is {steps}")
        if 5 in attribute:
            inside = _tensor(reader, _span(attribute[5][0]))
            if inside.location is not None or inside.elements > MOST_INSIDE:
                raise UnreadableError(
                    f"an attribute that holds {inside.elements} numbers, at most {MOST_INSIDE} may stand there"
                )
    return Node(
        _text(reader, fields, 7),
        _text(reader, fields, 4),
        _text(reader, fields, 3),
        tuple(map(reader.bytes, fields.get(1, ()))),
        tuple(map(reader.bytes, fields.get(2, ()))),
        kind,
    )


def _value(reader: Reader, span: Span) -> Value:
    """Return a value, whose type is looked at."""
    fields = reader.read(span, _VALUE)
    rank, elements = MOST_RANK, None
    if 2 in fields:
        kind = reader.read(_span(fields[2][0]), _TYPE)
        if 1 in kind:
            tensor = reader.read(_span(kind[1][0]), _TENSOR_TYPE)
            _bits(_number(tensor, 1))
            sizes = reader.read(_span(tensor[2][0]), _SHAPE).get(1, []) if 2 in tensor else []
            known = [reader.read(_span(size), _SIZE) for size in sizes]
            fixed = [_number(size, 1) for size in known if 1 in size]
            product = _elements(fixed, len(sizes))
            if 2 in tensor:
                rank, elements = len(sizes), product if len(fixed) == len(sizes) else None
    return Value(_text(reader, fields, 1), rank, elements)


def _tensor(reader: Reader, span: Span) -> Tensor:
    fields = reader.read(span, _TENSOR)
    name, bits = _text(reader, fields, 8), _bits(_number(fields, 2))
    dims = reader.numbers(fields.get(1, []), MOST_RANK)
    elements = _elements(dims, len(dims))
    size = -(-elements * bits // 8)
    shown, whole = name.decode(errors="replace"), _number(fields, 2) in WHOLE
    stored_in = [number for number in (9, 13, *_TYPED) if number in fields]
    if len(stored_in) > 1 or (not stored_in and elements) or (_number(fields, 14) != 0) != (13 in fields):
        raise UnreadableError(f"tensor '{shown}' that does not hold its numbers in one place")
    if 13 in fields:
        entries = [reader.read(_span(entry), _ENTRY) for entry in fields[13]]
        where = {_text(reader, entry, 1): _text(reader, entry, 2) for entry in entries}
        if len(where) != len(entries) or where.keys() != set(_KEYS):
            raise UnreadableError(f"tensor '{shown}' whose external data is not told by location, offset and length")
        if not (where[b"offset"].isdigit() and where[b"length"].isdigit() and len(where[b"offset"]) < 20):
            raise UnreadableError(f"tensor '{shown}' whose external data has no whole offset and length")
        if where[b"length"].lstrip(b"0") != str(size).encode().lstrip(b"0"):
            raise UnreadableError(
                f"tensor '{shown}' with {where[b'length'].decode()[:20]} bytes of external data, its sizes say {size}"
            )
        return Tensor(name, len(dims), elements, size, where[b"location"], int(where[b"offset"]), whole)
    if 9 in fields:
        first, last = _span(fields[9][0])
        stored, wanted = last - first, size
    elif stored_in:
        stored, wanted = reader.count(fields[stored_in[0]], _TYPED[stored_in[0]]), -(-elements * min(bits, 8) // 8)
    else:
        stored = wanted = 0
    if stored != wanted:
        raise UnreadableError(f"tensor '{shown}' that holds {stored} bytes or numbers, its sizes say {wanted}")
    return Tensor(name, len(dims), elements, size, whole=whole, numbers=_numbers(reader, fields) if whole else None)


def _numbers(reader: Reader, fields: Mapping[int, list[int | Span]]) -> tuple[int, ...] | None:
    """Return the whole numbers that a tensor holds here, None if there are many."""
    if 9 in fields:
        content = reader.bytes(fields[9][0])
        kind = WHOLE[_number(fields, 2)]
        return tuple(np.frombuffer(content, kind).tolist()) if len(content) <= 8 * MOST_INSIDE else None
    stored = fields.get(5, fields.get(7, []))
    return tuple(reader.numbers(stored, MOST_INSIDE)) if reader.count(stored, 0) <= MOST_INSIDE else None


def _elements(dims: list[int], rank: int) -> int:
    if rank > MOST_RANK:
        raise UnreadableError(f"a value of {rank} dimensions, at most {MOST_RANK} are taken")
    if any(size < 0 for size in dims) or math.prod(max(size, 1) for size in dims) > _MOST_BYTES:
        raise UnreadableError(f"a value of sizes {dims}, which nothing can have")
    return math.prod(dims)


def _bits(kind: int) -> int:
    if kind not in BITS:
        what = "strings" if kind == _STRING else f"type {kind}"
        raise UnreadableError(f"a tensor of {what}, which no dialect writes")
    return BITS[kind]


def _text(reader: Reader, fields: Mapping[int, list[int | Span]], number: int) -> bytes:
    return reader.bytes(fields[number][0]) if number in fields else b""


def _number(fields: Mapping[int, list[int | Span]], number: int) -> int:
    """Return a whole number, negative where it is one of 64 bits; 0 if it is left out."""
    return _signed_number(fields[number][0] if number in fields else 0)


def _signed_number(value: int | Span) -> int:
    assert isinstance(value, int)
    return value - (1 << 64) if value >> 63 else value


def _span(value: int | Span) -> Span:
    assert isinstance(value, tuple)
    return value
