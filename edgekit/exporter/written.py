"""Read back what was written: the weights of a bundle's graphs, where they lie, which op consumes them and how.

Everything that judges an export (census, weight check, the float bundle as a source) starts here, from the files and
not from what the builder meant to write.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit.bundle import Component
from edgekit.errors import BundleFormatError, CheckpointError
from edgekit.exporter.graph import Array
from edgekit.exporter.quantize import SMOOTHING

Float = NDArray[np.float32]
_ROUNDS = ("DynamicQuantizeLinear", "Div")  # ops by which an input becomes whole numbers, row by row
_PASSES = ("Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze")  # ops that only re-arrange a weight


@dataclass(frozen=True, slots=True)
class Layout:
    """A matrix of codes: ``rows`` of ``width`` numbers, ``bits`` a code, a scale for every ``block`` of a row.

    Of a bank, the rows of one expert come after another's. ``looked_up``: as they lie, a host can look a row up in them
    (``Embedding``).
    """

    rows: int
    width: int
    block: int
    bits: int
    looked_up: bool = False


class Packing(Protocol):
    """How codes of weights lie in the files for the op that consumes them, and back.

    What packs them is a method of the same class, of whatever arguments it needs.
    """

    def layout(self, weight: "WrittenWeight", scales: "WrittenWeight") -> Layout:
        """Return the matrix that a weight and its scales are."""
        ...

    def unpack(self, weight: "WrittenWeight", scales: "WrittenWeight", start: int, stop: int) -> tuple[Float, Float]:
        """Return rows [start, stop) of the matrix as numbers, and the scale of each number, both (stop - start, width).

        The second may be of one column where a row has one scale.
        """
        ...


@dataclass(frozen=True, slots=True)
class WrittenWeight:
    """One initializer as it stands in the files: ``op`` consumes it, ``attributes`` are that op's.

    INT4 is int8 here, two numbers a byte with the first in the low half; ``attributes`` then have ``bits``.
    ``packing``: how the op takes its weights where they are codes; None if the dialect knows none for it.
    ``smoothing``: what each channel of the op's other input is multiplied by before it, (width,); None if nothing is.
    """

    component: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    op: str
    attributes: Mapping[str, Any]
    file: Path
    offset: int | None
    inline: Array | None
    packing: Packing | None = None
    smoothing: Float | None = None

    @property
    def bytes(self) -> int:
        """Bytes in the bundle."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Array:
        """Return rows [start, stop) of the first axis, in the stored dtype."""
        if self.inline is not None:
            return self.inline[start:stop]
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        assert self.offset is not None
        with self.file.open("rb") as stream:
            stream.seek(self.offset + start * row * self.dtype.itemsize)
            block = np.fromfile(stream, self.dtype, (stop - start) * row)
        if block.size != (stop - start) * row:
            raise BundleFormatError(f"{self.file}: ends before tensor '{self.name}'; export it again")
        return block.reshape(stop - start, *self.shape[1:])

    def read(self) -> Array:
        """Return the whole tensor."""
        return self.rows(0, self.shape[0])


def written_weights(
    folder: Path, components: Mapping[str, Component], packings: Mapping[str, Packing]
) -> dict[str, WrittenWeight]:
    """Return every named initializer of a bundle's graphs, constants left out. packings: the dialect's, by op."""
    found: dict[str, WrittenWeight] = {}
    for name, component in components.items():
        model = onnx.load(str(folder / component.graph), load_external_data=False)
        uses, smoothing = _uses(model.graph), _smoothing(model.graph)
        for proto in model.graph.initializer:
            if proto.name.startswith("const."):
                continue
            assert proto.name not in found, f"{proto.name}: in {found[proto.name].component} and in {name}"
            op, attributes = uses.get(proto.name, ("unused", {}))
            dtype, shape = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type)), tuple(proto.dims)
            if proto.data_type == onnx.TensorProto.INT4:
                dtype, shape, attributes = np.dtype(np.int8), (*shape[:-1], shape[-1] // 2), {**attributes, "bits": 4}
            external = {entry.key: entry.value for entry in proto.external_data}
            found[proto.name] = WrittenWeight(
                component=name,
                name=proto.name,
                dtype=dtype,
                shape=shape,
                op=op,
                attributes=attributes,
                file=folder / (external.get("location") or component.graph),
                offset=int(external["offset"]) if external else None,
                inline=None if external else numpy_helper.to_array(proto),
                packing=packings.get(op),
            )
        for weight, by in smoothing.items():
            found[weight] = replace(found[weight], smoothing=np.asarray(found[by].read(), np.float32))
    return found


def _smoothing(graph: onnx.GraphProto) -> dict[str, str]:
    """Return, for weights of products in whole numbers, the initializer that their input is multiplied by before it."""
    made_by = {output: node for node in graph.node for output in node.output}
    smoothing = {}
    for node in graph.node:
        if node.op_type != "MatMulIntegerToFloat":
            continue
        before = made_by.get(node.input[0])
        while before is not None and before.op_type in _ROUNDS:
            before = made_by.get(before.input[0])
        if before is not None and before.op_type == "Mul" and before.input[1].endswith(SMOOTHING):
            smoothing[node.input[1]] = before.input[1]
    return smoothing


def _uses(graph: onnx.GraphProto) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the op that really consumes each initializer, looking through ops that only re-arrange it."""
    consumers: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        for value in node.input:
            consumers.setdefault(value, node)
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for proto in graph.initializer:
        consumer = consumers.get(proto.name)
        while consumer is not None and consumer.op_type in _PASSES:
            consumer = consumers.get(consumer.output[0])
        if consumer is not None:
            found[proto.name] = (consumer.op_type, {a.name: helper.get_attribute_value(a) for a in consumer.attribute})
    return found


class BundleTensors:
    """A float bundle as a source of tensors: quantising it reads the same numbers as its checkpoint held."""

    def __init__(self, weights: Mapping[str, WrittenWeight]) -> None:
        self._weights = weights
        if other := [weight for weight in weights.values() if weight.dtype != np.float32]:
            raise CheckpointError(
                f"{other[0].file.parent}: '{other[0].name}' is {other[0].dtype}, only weights in float32 can be "
                "quantised; use `edgekit export CHECKPOINT` with the precision and the target that you want"
            )

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor as the bundle stores it."""
        return self._weights[name].shape

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis."""
        return np.asarray(self._weights[name].rows(start, stop), dtype=np.float32)
