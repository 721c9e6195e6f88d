"""Check every quantised weight of a bundle against its source, number by number.

Rounding to nearest leaves each weight within half a step of its source, and what is kept float must equal it: an exact
bound, so one swapped expert, one transposed matrix or one scale off by a few percent cannot pass. Works for any size of
model: one row block or expert is in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import QualityError
from edgekit.exporter.checks.written import WrittenWeight
from edgekit.exporter.families.base import Opened
from edgekit.exporter.quantize import SCALE, dequantize_blocks, half_float16_step, half_step, turn_sign
from edgekit.exporter.sources.checkpoint import Tensors, read
from edgekit.exporter.tables import JoinedTensors
from edgekit.exporter.weights import row_blocks

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
                raise QualityError(
                    f"{name}: {held.size} numbers in the bundle, {given.size} in the checkpoint; name its own"
                )
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


def _allowed(weight: WrittenWeight, held: Float, scale: Float | None) -> Float:
    if scale is not None:
        return half_step(scale)
    return half_float16_step(held) if weight.dtype == np.float16 else np.zeros(1, np.float32)


def _pairs(opened: Opened, weight: WrittenWeight, scales: WrittenWeight | None, source: Tensors) -> Iterator[_Pair]:
    name = weight.name
    if weight.dtype.kind == "f":
        if opened.banked(name) and len(weight.shape) == 3:
            for expert in range(weight.shape[0]):
                yield opened.expert_rows(source, name, expert), weight.rows(expert, expert + 1)[0], None
        else:
            yield read(source, name), weight.read(), None
        return
    assert scales is not None, name
    if weight.op == "QMoE":
        yield from _expert_pairs(opened, name, weight, scales, source)
    elif weight.op == "DynamicQuantizeMatMul":
        scale = scales.read()
        yield read(source, name), weight.read().T.astype(np.float32) * scale[:, None], scale[:, None]
    elif weight.op == "DequantizeLinear":
        yield from _signed_pairs(opened, weight, scales, source)
    else:
        bits, block, width = (int(weight.attributes[key]) for key in ("bits", "block_size", "K"))
        for start, stop in row_blocks(weight.shape[0], width * 4):
            part = scales.rows(start, stop)
            held = dequantize_blocks(weight.rows(start, stop), part, bits, width)
            yield source.rows(name, start, stop), held, np.repeat(part, block, axis=1)[:, :width]


def _signed_pairs(opened: Opened, weight: WrittenWeight, scales: WrittenWeight, source: Tensors) -> Iterator[_Pair]:
    """Yield rows of signed codes, of a scale for each row or block; a bank of experts is one expert after another."""
    bits = int(weight.attributes.get("bits", 8))
    total, width = weight.shape[0], weight.shape[1] * 8 // bits
    banked = opened.banked(weight.name)
    start = expert = 0
    while start < total:
        if banked:
            given = opened.expert_rows(source, weight.name, expert)
        else:
            given = source.rows(weight.name, start, next(row_blocks(total - start, width * 4))[1] + start)
        stop = start + len(given)
        part = scales.rows(start, stop).astype(np.float32).reshape(len(given), -1)
        codes = turn_sign(weight.rows(start, stop), bits).reshape(*part.shape, -1)
        yield given, dequantize_blocks(codes, part, bits, width), np.repeat(part, width // part.shape[1], axis=1)
        start, expert = stop, expert + 1


def _expert_pairs(
    opened: Opened, name: str, weight: WrittenWeight, scales: WrittenWeight, source: Tensors
) -> Iterator[_Pair]:
    bits, block = int(weight.attributes["expert_weight_bits"]), int(weight.attributes["block_size"])
    for expert in range(weight.shape[0]):
        part = scales.rows(expert, expert + 1)[0]
        codes = weight.rows(expert, expert + 1)[0].reshape(*part.shape, -1)
        held = dequantize_blocks(codes, part, bits, part.shape[1] * block)
        yield opened.expert_rows(source, name, expert), held, np.repeat(part, block, axis=1)
