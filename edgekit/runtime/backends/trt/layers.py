"""LayerCensus: how many linears of a plan hold INT8 or INT4 weights, from what the builder says.

Without a GPU the layers of a plan cannot be looked into, and a builder may join all of them into one. What can be told
is a lower bound: a linear whose weights were widened takes at least twice its bytes, so no more were widened than the
plan has bytes too many. In what precision the products are computed is not told by it: that an engine's inspector
tells, where there is a GPU.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.bundle import CensusRow

_ALIGNED = 256  # bytes; a builder lets each tensor begin on such a boundary
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
# Lowest first: a layer works in the lowest type of what it reads. Words as the inspector of TensorRT 8 to 11 has them.
_KINDS = (
    ("int4", ("int4",)),
    ("int8", ("int8",)),
    ("float16", ("half", "fp16", "bf16", "bfloat16")),
    ("float32", ("float", "fp32")),
)


@dataclass(frozen=True, slots=True)
class LayerCensus:
    """``quantised``: linears and experts that surely hold INT8 or INT4, of ``asked``; ``weight_bytes``: the plan's."""

    quantised: int
    asked: int
    weight_bytes: int


def take_layer_census(rows: Iterable[CensusRow], data_bytes: int, log: Iterable[str], plan_bytes: int) -> LayerCensus:
    """Return the census of one component's plan.

    rows: its weights as the bundle lists them; data_bytes: size of its weights' file; log: the builder's verbose lines.
    Where the log does not state the plan's weights, the plan's own size stands for them.
    """
    stated = [int(found[1]) for line in log if (found := _WEIGHTS.search(line))]
    weight_bytes = stated[-1] if stated else plan_bytes
    rows = list(rows)
    numbers = sorted(row.bytes for row in rows if row.dtype in ("int8", "int4"))
    aligned = sum(-(-row.bytes // _ALIGNED) * _ALIGNED for row in rows)  # some lie in the graph's own file
    left, widened = weight_bytes - max(data_bytes, aligned), 0
    for size in numbers:
        left -= size
        if left < 0:
            break
        widened += 1
    return LayerCensus(len(numbers) - widened, len(numbers), weight_bytes)


def count_layers(information: str) -> dict[str, int]:
    """Return how many layers of an engine work in each type, by what its inspector says in JSON.

    ``untold`` are those of whose type it says nothing: shapes, copies, or a plan built to keep names only. Source:
    TensorRT documentation, "Engine Inspector".
    """
    counts = Counter(_kind(layer) for layer in json.loads(information)["Layers"])
    return {kind: counts[kind] for kind in [kind for kind, _ in _KINDS] + ["untold"] if counts[kind]}


def _kind(layer: str | Mapping[str, Any]) -> str:
    said = " ".join(_types(layer)).lower() if isinstance(layer, Mapping) else ""
    return next((kind for kind, words in _KINDS if any(word in said for word in words)), "untold")


def _types(layer: Mapping[str, Any]) -> Iterator[str]:
    for tensor in layer.get("Inputs", ()):
        yield str(tensor.get("Format/Datatype", ""))
    weights = layer.get("Weights")
    if isinstance(weights, Mapping):
        yield str(weights.get("Type", ""))
