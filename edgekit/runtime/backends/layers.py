"""LayerCensus: how many linears of a plan hold INT8 or INT4 weights, from what the builder says.

Without a GPU the layers of a plan cannot be looked into, and a builder may join all of them into one. What can be told
is a lower bound: a linear whose weights were widened takes at least twice its bytes, so no more were widened than the
plan has bytes too many. In what precision the products are computed is not told by it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.bundle import CensusRow

_ALIGNED = 256  # bytes; a builder lets each tensor begin on such a boundary
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")


@dataclass(frozen=True, slots=True)
class LayerCensus:
    """``int8``: linears and experts that surely hold INT8 or INT4, of ``asked``; ``weight_bytes`` are the plan's."""

    int8: int
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
