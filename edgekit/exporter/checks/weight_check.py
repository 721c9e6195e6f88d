"""Check every quantised weight of a bundle against its source, number by number.

Rounding to nearest leaves each weight within half a step of its source, and what is kept float must equal it: an exact
bound, so one swapped expert, one transposed matrix or one scale off by a few percent cannot pass. Works for any size of
model: one row block or expert is in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import QualityError
from edgekit.exporter.families.base import Opened
from edgekit.exporter.quantize import SCALE, half_float16_step, half_step
from edgekit.exporter.sources.checkpoint import Tensors, read
from edgekit.exporter.tables import COPY, JoinedTensors
from edgekit.exporter.weights import row_blocks
from edgekit.exporter.written import WrittenWeight

Float = NDArray[np.float32]
_Pair = tuple[Float, Float, Float | None]  # source rows, stored rows as numbers, scale of each number or None if float


def check_weights(
    opened: Opened, weights: Mapping[str, WrittenWeight], source: Tensors, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return how many tensors were compared and how far each component's quantised weights are from the source.

    ``error`` is, for each component, the root mean square of the differences / that of the source's weights.
    ``report`` is told tensors done and in all.

    Raises QualityError naming the first tensor of which a stored number is further from its source than its format
    allows.
    """
    stored = sorted({opened.stored(name) for name in opened.expected()})
    stored += [COPY + name for name in stored if COPY + name in weights]
    source = JoinedTensors(source, opened)
    quantised = 0
    squares: dict[str, list[float]] = {}
    for done, name in enumerate(stored):
        if name not in weights:
            raise QualityError(
                f"{name}: not in the bundle, the checkpoint has it; name the checkpoint it was made from"
            )
        weight = weights[name]
        for given, held, scale in _pairs(opened, weight, weights.get(name + SCALE), source):
            if given.size != held.size:
                raise _of_another_size(name, held.size, given.size)
            allowed = _allowed(weight, held, scale)
            distance = np.abs(given.reshape(held.shape) - held)
            if not (distance <= allowed).all():  # NaN fails too
                worst = np.unravel_index(int(np.argmax(np.nan_to_num(distance, nan=np.inf) - allowed)), distance.shape)
                bound = float(np.broadcast_to(allowed, distance.shape)[worst])
                raise QualityError(
                    f"{name}: a stored weight is {float(distance[worst]):.3g} from the checkpoint's, half a step is "
                    f"{bound:.3g}; the bundle does not hold this checkpoint, export it again"
                )
            if scale is not None:
                sums = squares.setdefault(weight.component, [0.0, 0.0])
                sums[0] += float(np.square(distance, dtype=np.float64).sum())
                sums[1] += float(np.square(given, dtype=np.float64).sum())
        quantised += weight.dtype.kind != "f"
        report(done + 1, len(stored))
    error = {component: (off / max(whole, 1e-30)) ** 0.5 for component, (off, whole) in sorted(squares.items())}
    return {"tensors": len(stored), "quantised": quantised, "bound": "half a step", "error": error}


def _of_another_size(name: str, held: int, given: int) -> QualityError:
    return QualityError(f"{name}: {held} numbers in the bundle, {given} in the checkpoint; name its own")


def _allowed(weight: WrittenWeight, held: Float, scale: Float | None) -> Float:
    if scale is not None:
        return half_step(scale)
    return half_float16_step(held) if weight.dtype == np.float16 else np.zeros(1, np.float32)


def _pairs(opened: Opened, weight: WrittenWeight, scales: WrittenWeight | None, source: Tensors) -> Iterator[_Pair]:
    name = weight.name  # the checkpoint's, of a copy too
    if weight.dtype.kind == "f":
        if opened.banked(name) and len(weight.shape) == 3:
            for expert in range(weight.shape[0]):
                yield opened.expert_rows(source, name, expert), weight.rows(expert, expert + 1)[0], None
        else:
            yield read(source, name), weight.read(), None
        return
    assert scales, name
    assert weight.packing, f"{name}: codes of {weight.op}, which no packing reads"
    layout = weight.packing.layout(weight, scales)
    banked = opened.banked(name)
    if not banked and source.shape(name) != (layout.rows, layout.width):
        raise _of_another_size(name, layout.rows * layout.width, prod(source.shape(name)))
    start = expert = 0
    while start < layout.rows:  # a bank of experts is one expert after another
        if banked:
            given = opened.expert_rows(source, name, expert)
        else:
            given = source.rows(name, start, start + next(row_blocks(layout.rows - start, layout.width * 4))[1])
        stop = start + len(given)
        yield given, *weight.packing.unpack(weight, scales, start, stop)
        start, expert = stop, expert + 1
