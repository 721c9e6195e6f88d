"""Build one component of a family from tensors in memory and call its graph, without a bundle around it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.bundle.dialects import Activations
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.families import Opened, Part
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import GROUPS, QuantizeSettings
from edgekit.runtime.backends.ort import OrtEngine, open_graph
from edgekit.runtime.engine import Call

Array = NDArray[np.float32]
P = TypeVar("P", bound=Part)
SMALL_BLOCKS = QuantizeSettings(backbone_block=32, experts_block=32, head_block=32)


class Held:
    """Named tensors in memory as a source."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.tensors = tensors

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self.tensors[name].shape

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Return rows [start, stop) of one tensor's first axis."""
        return self.tensors[name][start:stop]


def engine(
    folder: Path,
    name: str,
    build: Callable[[GraphWriter, Weights], None],
    tensors: Mapping[str, Array],
    precision: Precision = "float32",
    *,
    dialect: str = "ort-cpu",
    activations: Activations = "float32",
) -> OrtEngine:
    """Return the component ``name`` that ``build`` writes into ``folder``, every group in one precision."""
    folder.mkdir(parents=True, exist_ok=True)
    with GraphWriter(folder, name, DIALECTS.get(dialect), activations) as g:
        build(g, Weights(Held(tensors), dict.fromkeys(GROUPS, precision), SMALL_BLOCKS))
        component = g.close(precision)
    DIALECTS.get(dialect).check(folder / component.graph, activations)
    return open_graph(folder, component, 1, exact=dialect != "standard")  # as the runtime asks for it


def part_of(opened: Opened, kind: type[P]) -> P:
    """Return the part of a family that is of one class."""
    (found,) = (part for part in opened.parts if isinstance(part, kind))
    return found


class Rows:
    """One KV cache of a text model's graph; ``fixed`` inputs are given at every call."""

    def __init__(self, made: OrtEngine, fixed: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        self._call: Call = made.bind({"context": 256})
        self._fixed = dict(fixed or {})
        self._asks = any(spec.name == "logit_rows" for spec in made.component.inputs)
        self.tokens = 0

    def run(self, embeds: Array, rows: list[int] | None = None, **inputs: NDArray[np.generic]) -> dict[str, Array]:
        """Append rows (n, width) and return the outputs; ``rows`` asks for logits, of all rows if None."""
        asked = list(range(len(embeds))) if rows is None else rows
        given = {"embeds": np.ascontiguousarray(embeds), "start": np.array([self.tokens])}
        if self._asks:
            given["logit_rows"] = np.array(asked, np.int64)
        self.tokens += len(embeds)
        return self._call.run(given | self._fixed | inputs)
