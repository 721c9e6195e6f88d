"""Quantised numbers: symmetric INT8 and INT4 in blocks, INT8 per output channel, and back.

Pure arithmetic on row blocks of a weight (out, in); knows nothing of graphs. Rounding is to nearest even, scales are
float32 or float16, and every weight comes back as the nearest number that its codes hold: within half a step of its
source, but for INT4 weights beyond the outermost code, which become that (``allowed_distance``). Verification relies on
it.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.bundle.dialects import Activations
from edgekit.errors import CheckpointError
from edgekit.recipe import flag

Float = NDArray[np.float32]
Codes = NDArray[Any]
BLOCKS = (128, 64, 32)
SMALLEST_BLOCK = 16
BITS: dict[Precision, int] = {"int8": 8, "int4": 4, "float32": 32}
SCALE = ".scale"  # a weight's scales are stored under its name and this
SMOOTHING = ".smoothing"  # and what its input is multiplied by, where it is smoothed
MOST_SMOOTHING = 32.0  # that: powers of two from 1 to this, so that no column of a weight is lost beside another
LOWEST_INT4, HIGHEST_INT4 = -8, 7
# INT4: steps from 0 to a block's largest weight that are tried. Beyond 8 that weight is cut, and all others are rounded
# finer. In blocks of 32 the best loses 15 % less than 7 steps do: docs/decisions/int4.md.
STEPS_INT4 = (8.0, 7.0, 7.5, 8.5, 9.0, 9.5)
_AT_ONCE = 1 << 16  # weights searched together, so that they stay in the cache


def zero_point(bits: int) -> int:
    """Return the code that means zero: 128 for 8 bits, 8 for 4 bits."""
    return 1 << (bits - 1)


def choose_block(width: int, at_most: int) -> int:
    """Return the largest block of 128, 64 or 32 that divides ``width`` and is at most ``at_most``.

    Where none divides it, the smallest is returned: the last block is then padded with zeros.
    """
    return next((block for block in BLOCKS if block <= at_most and width % block == 0), BLOCKS[-1])


def dividing_block(width: int, at_most: int) -> int | None:
    """Return the largest block of 128, 64, 32 or 16 that divides ``width`` and is at most ``at_most``; None if none."""
    blocks = (*BLOCKS, SMALLEST_BLOCK)
    return next((block for block in blocks if block <= at_most and width % block == 0), None)


def choose_expert_block(hidden: int, inner: int, at_most: int, group: str) -> int:
    """Return the largest block of 128, 64, 32 or 16 that divides both widths of an expert and is at most ``at_most``.

    Raises CheckpointError, which names the ``group`` of weights, if none does: the expert op pads nothing.
    """
    if (block := dividing_block(math.gcd(hidden, inner), at_most)) is None:
        raise CheckpointError(
            f"experts of {hidden} x {inner}: both widths must be multiples of {SMALLEST_BLOCK} to be quantised; "
            f"export with {flag(group, 'float32')}"
        )
    return block


def quantize_blocks(
    rows: Float, bits: int, block: int, stored: Activations = "float32", *, turned: bool = False
) -> tuple[Codes, NDArray[np.floating[Any]]]:
    """Return codes and scales of ``rows`` (n, width) quantised symmetrically in blocks along the width.

    Codes: uint8 (n, blocks, block * bits / 8), zero point 2^(bits-1), two 4-bit codes a byte with the first in the low
    half. Scales: ``stored`` (n, blocks); of INT8 largest magnitude / 127, of INT4 the one of STEPS_INT4 that loses
    least. ``turned``: INT4 scales may be negative, so that the outermost code, -8, is the largest weight's of either
    sign. This is MatMulNBits' and QMoE's layout.
    """
    count, width = rows.shape
    blocks = -(-width // block)
    if width % block:
        rows = np.pad(rows, ((0, 0), (0, blocks * block - width)))
    values = rows.reshape(count, blocks, block)
    if bits == 8:
        scales = _stored((np.abs(values).max(axis=-1) / np.float32(127)).astype(np.float32), stored)
        steps = values / nonzero(scales).astype(np.float32)[..., None]
        return (np.clip(np.rint(steps), -127, 127) + zero_point(bits)).astype(np.uint8), scales
    codes, flat = _least_loss(values.reshape(-1, block), stored, turned=turned)
    codes = codes.reshape(count, blocks, block)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), flat.reshape(count, blocks)


def _least_loss(values: Float, stored: Activations, *, turned: bool) -> tuple[Codes, NDArray[np.floating[Any]]]:
    """Return INT4 codes (n, block), one a byte, and ``stored`` scales (n,) of the least squared loss by block."""
    codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values), stored)
    size = max(1, _AT_ONCE // values.shape[1])
    for start in range(0, len(values), size):
        part = values[start : start + size]
        largest = part[np.arange(len(part)), np.abs(part).argmax(axis=1)]
        least = np.full(len(part), np.inf, np.float32)
        for count in STEPS_INT4:
            tried = _stored((np.abs(largest) / np.float32(count)).astype(np.float32), stored)
            if turned:
                tried = np.where(largest > 0, -tried, tried)
            scale = tried.astype(np.float32)[:, None]
            steps = np.clip(np.rint(part / nonzero(scale)), LOWEST_INT4, HIGHEST_INT4)
            loss = np.square(part - steps * scale).sum(axis=1)
            better = loss < least
            least[better] = loss[better]
            codes[start : start + size][better] = (steps[better] + zero_point(4)).astype(np.uint8)
            scales[start : start + size][better] = tried[better]
    return codes, scales


def turn_sign(codes: Codes, bits: int) -> Codes:
    """Return codes with a zero point as signed ones without, int8, or the other way round, uint8; packed alike."""
    turned = codes.view(np.uint8) ^ np.uint8(128 if bits == 8 else 0x88)
    return turned.view(np.int8) if codes.dtype == np.uint8 else turned


def dequantize_blocks(codes: Codes, scales: NDArray[np.floating[Any]], bits: int, width: int) -> Float:
    """Return float32 rows (n, width) of what ``quantize_blocks`` made."""
    if bits == 4:
        pairs: Codes = np.stack([codes & 15, codes >> 4], axis=-1)
        codes = pairs.reshape(*codes.shape[:-1], -1)
    values = (codes.astype(np.float32) - np.float32(zero_point(bits))) * scales.astype(np.float32)[..., None]
    return np.ascontiguousarray(values.reshape(codes.shape[0], -1)[:, :width])


def quantize_channels(
    rows: Float, stored: Activations = "float32"
) -> tuple[NDArray[np.int8], NDArray[np.floating[Any]]]:
    """Return int8 codes (n, width) and ``stored`` scales (n,) of ``rows``, one scale for each output channel."""
    scales = _stored((np.abs(rows).max(axis=1) / np.float32(127)).astype(np.float32), stored)
    steps = rows / nonzero(scales).astype(np.float32)[:, None]
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scales


def _stored(scales: Float, kind: Activations) -> NDArray[np.floating[Any]]:
    """Return scales as they are stored: in float16 the next one that is not smaller, so that no weight is cut."""
    if kind == "float32":
        return scales
    half = scales.astype(np.float16)
    return np.where(half.astype(np.float32) < scales, np.nextafter(half, np.float16(np.inf)), half)


def nonzero(scales: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return scales in which 1 stands for 0: of codes that are all 0, and TensorRT takes positive ones only."""
    return np.where(scales == 0, scales.dtype.type(1), scales)


def half_step(scales: Float) -> Float:
    """Return the largest distance between a weight and its code, with room for float32 rounding."""
    return np.abs(scales) * np.float32(0.5005) + np.float32(1e-12)


def allowed_distance(given: Float, scales: Float, bits: int) -> Float:
    """Return how far each weight may be from its code if that is the nearest: half a step and, of INT4, what was cut.

    No block cuts what is more than the most of STEPS_INT4 away: a weight out there has half a step as well.
    """
    if bits == 8:
        return half_step(scales)
    ends = scales * np.float32(LOWEST_INT4), scales * np.float32(HIGHEST_INT4)
    cut = np.abs(given - np.clip(given, np.minimum(*ends), np.maximum(*ends)))
    may = np.abs(given) <= np.abs(scales) * np.float32(max(STEPS_INT4) * 1.001) + np.float32(1e-12)
    return half_step(scales) + np.where(may, cut, np.float32(0))


def half_float16_step(values: Float) -> Float:
    """Return the largest distance between a float16 and the numbers it is nearest to."""
    return np.abs(values) * np.float32(2**-11) + np.float32(2**-25)
