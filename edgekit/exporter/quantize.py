"""Quantised numbers: symmetric INT8 and INT4 in blocks, INT8 per output channel, and back.

Pure arithmetic on row blocks of a weight (out, in); knows nothing of graphs. Rounding is to nearest even, scales are
float32 or float16, and every weight comes back within half a step of its source (``half_step``), which verification
relies on.
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
    rows: Float, bits: int, block: int, stored: Activations = "float32"
) -> tuple[Codes, NDArray[np.floating[Any]]]:
    """Return codes and scales of ``rows`` (n, width) quantised symmetrically in blocks along the width.

    Codes: uint8 (n, blocks, block * bits / 8), zero point 2^(bits-1), two 4-bit codes a byte with the first in the low
    half. Scales: ``stored`` (n, blocks), largest magnitude / (2^(bits-1) - 1). This is MatMulNBits' and QMoE's layout.
    """
    count, width = rows.shape
    blocks = -(-width // block)
    if width % block:
        rows = np.pad(rows, ((0, 0), (0, blocks * block - width)))
    values = rows.reshape(count, blocks, block)
    limit = zero_point(bits) - 1
    scales = _stored((np.abs(values).max(axis=-1) / np.float32(limit)).astype(np.float32), stored)
    steps = values / nonzero(scales).astype(np.float32)[..., None]
    codes: Codes = (np.clip(np.rint(steps), -limit, limit) + zero_point(bits)).astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
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
    return scales * np.float32(0.5005) + np.float32(1e-12)


def half_float16_step(values: Float) -> Float:
    """Return the largest distance between a float16 and the numbers it is nearest to."""
    return np.abs(values) * np.float32(2**-11) + np.float32(2**-25)
