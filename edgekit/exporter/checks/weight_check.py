"""Check every quantised weight of a bundle against its source, number by number.

Every stored number must be the nearest to its source that its block can hold, and what is kept float must equal it: an
exact bound, so one swapped expert, one transposed matrix or one scale off by a few percent cannot pass. Works for any
size of model: one row block or expert is in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.errors import QualityError
from edgekit.exporter.families.base import Opened
from edgekit.exporter.graph import Array
from edgekit.exporter.quantize import MOST_SMOOTHING, SCALE, allowed_distance, half_float16_step
from edgekit.exporter.sources.checkpoint import Tensors, read
from edgekit.exporter.tables import COPY, JoinedTensors
from edgekit.exporter.weights import row_blocks
from edgekit.exporter.written import WrittenWeight
from edgekit.recipe import Group

Float = NDArray[np.float32]
_Pair = tuple[Float, Float, Float]  # source rows as they are multiplied, stored rows, how far these may be from them


def check_weights(
    opened: Opened, weights: Mapping[str, WrittenWeight], source: Tensors, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return how many tensors were compared and how far each group's quantised weights are from the source.

    ``error`` is, for each group of weights, the root mean square of the differences / that of the source's weights,
    both as they are multiplied: divided by what smooths their input, where something does.
    ``report`` is told tensors done and in all.

    Raises QualityError naming the first tensor of which a stored number is further from its source than its format
    allows.
    """
    stored = sorted({opened.stored(name) for name in opened.expected()})
    stored += [COPY + name for name in stored if COPY + name in weights]
    groups = {opened.stored(name): opened.group(name) for name in opened.expected()}
    source = JoinedTensors(source, opened)
    quantised = 0
    squares: dict[str, list[float]] = {}
    for done, name in enumerate(stored):
        if name not in weights:
            raise QualityError(
                f"{name}: not in the bundle, the checkpoint has it; name the checkpoint it was made from"
            )
        weight = weights[name]
        group = groups[name.removeprefix(COPY)]
        for given, held, allowed in _pairs(opened, weight, weights.get(name + SCALE), source):
            if given.size != held.size:
                raise _of_another_size(name, held.size, given.size)
            distance = np.abs(given.reshape(held.shape) - held)
            if not (distance <= allowed).all():  # NaN fails too
                worst = np.unravel_index(int(np.argmax(np.nan_to_num(distance, nan=np.inf) - allowed)), distance.shape)
                bound = float(np.broadcast_to(allowed, distance.shape)[worst])
                raise QualityError(
                    f"{name}: a stored weight is {float(distance[worst]):.3g} from the checkpoint's, half a step is "
                    f"{bound:.3g}; the bundle does not hold this checkpoint, export it again"
                )
            if group and weight.dtype.kind != "f":
                sums = squares.setdefault(group, [0.0, 0.0])
                sums[0] += float(np.square(distance, dtype=np.float64).sum())
                sums[1] += float(np.square(given, dtype=np.float64).sum())
        quantised += weight.dtype.kind != "f"
        report(done + 1, len(stored))
    error = {group: (off / max(whole, 1e-30)) ** 0.5 for group, (off, whole) in sorted(squares.items())}
    return {"tensors": len(stored), "quantised": quantised, "bound": "half a step", "error": error}


def weight_errors(checked: Mapping[str, Any], precision: Mapping[Group, Precision]) -> dict[str, float]:
    """Return the largest error of the groups in INT8, and in INT4 if any is, by the names that Limits has for them."""
    found = {"weight_error": 0.0}
    for group, error in checked["error"].items():
        key = "int4_weight_error" if precision[group] == "int4" else "weight_error"
        found[key] = max(found.get(key, 0.0), error)
    return found


def _of_another_size(name: str, held: int, given: int) -> QualityError:
    return QualityError(f"{name}: {held} numbers in the bundle, {given} in the checkpoint; name its own")


def _pairs(opened: Opened, weight: WrittenWeight, scales: WrittenWeight | None, source: Tensors) -> Iterator[_Pair]:
    name = weight.name  # the checkpoint's, of a copy too
    if weight.dtype.kind == "f":
        if opened.banked(name) and len(weight.shape) == 3:
            for expert in range(weight.shape[0]):
                held = weight.rows(expert, expert + 1)[0]
                yield opened.expert_rows(source, name, expert), held, _allowed_of_float(held)
        else:
            held = weight.read()
            yield read(source, name), held, _allowed_of_float(held)
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
        if weight.smoothing is not None:
            _check_smoothing(name, weight.smoothing, layout.width)
            given = given / weight.smoothing
        held, steps = weight.packing.unpack(weight, scales, start, stop)
        if given.size != held.size:
            raise _of_another_size(name, held.size, given.size)
        yield given, held, allowed_distance(given.reshape(held.shape), steps, layout.bits)
        start, expert = stop, expert + 1


def _check_smoothing(name: str, factors: Float, width: int) -> None:
    """Raise QualityError unless dividing by these factors is exact and hides no column of a weight beside another."""
    if factors.shape != (width,):
        raise QualityError(f"{name}: smoothing of {factors.shape}, its input has {width} channels; export it again")
    powers = np.frexp(factors)[0] == 0.5
    if not (powers & (factors >= 1) & (factors <= MOST_SMOOTHING)).all():
        raise QualityError(
            f"{name}: its input is multiplied by other numbers than powers of two from 1 to {MOST_SMOOTHING:.0f}; "
            "export it again"
        )


def _allowed_of_float(held: Array) -> Float:
    return half_float16_step(held) if held.dtype == np.float16 else np.zeros(1, np.float32)
