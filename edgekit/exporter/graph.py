"""Write one ONNX graph whose weights go straight to its external data file, block by block.

Knows ONNX and files; knows nothing of attention or of quantisation. Nothing larger than one block of rows is ever held.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle import Component, Precision, TensorSpec
from edgekit.bundle.dialects import Activations
from edgekit.bundle.manifest import StateKind

_INLINE_BYTES = 1024  # smaller tensors stay inside the graph file
_TOLD_BYTES = 32  # longer constants are named by their hash
_PAGE = 4096  # large tensors start on a page, so that a runtime can map them

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Versions:
    """What a graph file is written in: the version of each domain's ops ("" is ONNX's own), and of the file's form."""

    opsets: Mapping[str, int]
    ir: int


class GraphForm(Protocol):
    """What a GraphWriter asks of the dialect that it writes in; ``int4_versions`` are for graphs that hold INT4."""

    name: str
    versions: Versions
    int4_versions: Versions


class WeightSlot:
    """Room for one weight tensor in the external data file, filled by row blocks of its first axis."""

    def __init__(self, stream: BinaryIO, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._stream = stream
        self.offset = offset
        self.dtype = dtype
        self.shape = shape
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._filled = 0

    def write(self, row: int, block: Array) -> None:
        """Store ``block`` (rows, ...) at ``row`` of the first axis."""
        if block.dtype != self.dtype or block[0:1].nbytes != self._row_bytes:
            raise AssertionError(f"block {block.dtype}{block.shape} does not fit slot {self.dtype}{self.shape}")
        self._stream.seek(self.offset + row * self._row_bytes)
        self._stream.write(np.ascontiguousarray(block).data)
        self._filled += block.shape[0]

    @property
    def complete(self) -> bool:
        """Whether as many rows were written as the tensor has."""
        return self._filled == self.shape[0]


class GraphWriter:
    """Collects nodes, streams weights, and publishes ``NAME.onnx`` with ``NAME.onnx.data`` when closed cleanly.

    ``activations``: what products take and give; ``narrow`` and ``widen`` go between it and float32, which all else is.
    """

    def __init__(self, folder: Path, name: str, dialect: GraphForm, activations: Activations = "float32") -> None:
        self.name = name
        self.dialect = dialect
        self.activations: Activations = activations
        self.graph_file = f"{name}.onnx"
        self.data_file = f"{name}.onnx.data"
        self._folder = folder
        self._stream = (folder / self.data_file).open("wb")
        self._end = 0
        self._slots: dict[str, WeightSlot] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[tuple[TensorSpec, onnx.ValueInfoProto]] = []
        self._outputs: list[tuple[TensorSpec, onnx.ValueInfoProto]] = []
        self._shared: dict[str, str] = {}
        self._casts: dict[tuple[str, str], str] = {}  # value and dtype to what it is in that dtype
        self._int4 = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def input(self, name: str, dtype: str, shape: Sequence[int | str], state: StateKind = "none") -> str:
        """Declare a graph input and return its name."""
        self._inputs.append(self._value(name, dtype, shape, state))
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[int | str], state: StateKind = "none") -> None:
        """Declare ``value`` as the graph output ``name``."""
        if value != name:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"out.{name}"))
        self._outputs.append(self._value(name, dtype, shape, state))

    def node(self, op: str, *inputs: str, domain: str = "", out: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        return self.nodes(op, *inputs, domain=domain, outs=(out,), **attributes)[0]

    def nodes(
        self, op: str, *inputs: str, domain: str = "", outs: Sequence[str | None] = (None,), **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with several outputs and return their names (None: a fresh one)."""
        label = f"{op}.{len(self._nodes)}"
        names = tuple(out or f"{label}.{index}" for index, out in enumerate(outs))
        trimmed = list(inputs)
        while trimmed and not trimmed[-1]:
            trimmed.pop()
        self._nodes.append(helper.make_node(op, trimmed, list(names), name=label, domain=domain, **attributes))
        return names

    def shared(self, key: str, make: Callable[[], str]) -> str:
        """Return the value that ``make`` computes, the same one for every call with this key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def narrow(self, x: str) -> str:
        """Return a float32 value as ``activations`` has it: the original where it was widened from one."""
        return self._cast(x, self.activations, "float32")

    def widen(self, x: str) -> str:
        """Return a value of ``activations`` as float32: the original where it was narrowed from one."""
        return self._cast(x, "float32", self.activations)

    def _cast(self, x: str, dtype: str, held: str) -> str:
        if dtype == held:
            return x
        if (x, dtype) not in self._casts:
            made = self.node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
            self._casts |= {(x, dtype): made, (made, held): x}
        return self._casts[x, dtype]

    def _used_nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes without the casts that nothing reads, since the value they came from was read instead."""
        read = {name for node in self._nodes for name in node.input} | {spec.name for spec, _ in self._outputs}
        casts = set(self._casts.values())
        return [node for node in self._nodes if node.output[0] not in casts or node.output[0] in read]

    def constant(self, value: Array | float | Sequence[int]) -> str:
        """Return the name of a small inline constant; equal ones are stored once. Ints become int64, floats float32."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        shape = "x".join(map(str, array.shape)) or "scalar"
        content = array.tobytes()
        told = content.hex() if len(content) <= _TOLD_BYTES else hashlib.sha256(content).hexdigest()
        name = f"const.{array.dtype}.{shape}.{told}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, dtype: str, shape: Sequence[int]) -> WeightSlot:
        """Reserve room for a named weight tensor; its rows are written through the returned slot.

        Rows of ``int4`` are written as int8, two numbers a byte with the first in the low half.
        """
        if name in self._initializers:
            raise AssertionError(f"weight '{name}' is declared twice")
        packed = dtype == "int4"
        self._int4 |= packed
        kind = np.dtype("int8" if packed else dtype)
        element = TensorProto.INT4 if packed else helper.np_dtype_to_tensor_dtype(kind)
        proto = TensorProto(name=name, dims=shape, data_type=element)
        shape = (*shape[:-1], shape[-1] // 2) if packed else shape
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        step = _PAGE if size >= _PAGE else 64
        offset = -(-self._end // step) * step
        self._end = offset + size
        proto.data_location = TensorProto.EXTERNAL
        for key, text in (("location", self.data_file), ("offset", str(offset)), ("length", str(size))):
            proto.external_data.add(key=key, value=text)
        self._initializers[name] = proto
        slot = WeightSlot(self._stream, offset, kind, tuple(shape))
        self._slots[name] = slot
        return slot

    def tensor(self, name: str, array: Array) -> str:
        """Store a whole weight tensor (inline when tiny) and return its name."""
        if array.nbytes <= _INLINE_BYTES:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        else:
            self.weight(name, str(array.dtype), array.shape).write(0, array)
        return name

    def close(self, precision: Precision) -> Component:
        """Write the graph file and return the Component; every reserved weight must have been filled."""
        if unfilled := [name for name, slot in self._slots.items() if not slot.complete]:
            raise AssertionError(f"{self.graph_file}: weights reserved but not written: {unfilled[:3]}")
        self._stream.truncate(self._end)
        self._stream.close()
        has_data = self._end > 0
        if not has_data:
            (self._folder / self.data_file).unlink()
        graph = helper.make_graph(
            self._used_nodes(),
            self.name,
            [value for _, value in self._inputs],
            [value for _, value in self._outputs],
            list(self._initializers.values()),
        )
        versions = self.dialect.int4_versions if self._int4 else self.dialect.versions
        model = helper.make_model(
            graph,
            producer_name="edgekit",
            ir_version=versions.ir,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in versions.opsets.items()],
        )
        (self._folder / self.graph_file).write_bytes(model.SerializeToString(deterministic=True))
        return Component(
            graph=self.graph_file,
            data=self.data_file if has_data else None,
            inputs=tuple(spec for spec, _ in self._inputs),
            outputs=tuple(spec for spec, _ in self._outputs),
            precision=precision,
        )

    @staticmethod
    def _value(
        name: str, dtype: str, shape: Sequence[int | str], state: StateKind
    ) -> tuple[TensorSpec, onnx.ValueInfoProto]:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        spec = TensorSpec(name=name, dtype=dtype, shape=tuple(shape), state=state)
        return spec, helper.make_tensor_value_info(name, element, list(shape))
