"""Traffic: what decoding a token reads from memory, and how fast this machine reads: the limit of any decoder.

One token at a time, every weight of the backbone that takes part is read once and used once, so tokens a second cannot
exceed bytes a second / bytes a token. ``python -m edgekit.profiler.traffic THREADS`` prints the second as JSON.
"""

import math
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from edgekit.bundle import CensusRow, ComputeLevel, Manifest

_BANKS = ("QMoE", "MoE")  # ops that read the chosen experts and no others
_BY_ROW = ("Lookup", "GroupQueryAttention")  # a token's row of the table, a position's row of cos and sin
_EXPERTS, _HEAD, _DENSE, _CACHE = "experts", "head", "other weights", "KV cache"
_BUFFER_BYTES = 1 << 30  # ten times the largest cache of a server's processor
_PASSES = 9


def token_bytes(manifest: Manifest, position: int, level: ComputeLevel | None = None) -> Mapping[str, int]:
    """Return the bytes that decoding one token reads, by part, after ``position`` tokens at a level (the last one).

    As stored: codes and scales of every linear of the backbone, the chosen experts' share of each bank, one row of the
    token table, and keys and values of every token before. Activations, which stay in the processor's cache, are left
    out.
    """
    chosen = (level or manifest.levels[-1]).experts_per_token
    parts: dict[str, float] = dict.fromkeys((_DENSE, _EXPERTS, _HEAD, _CACHE), 0.0)
    for row in manifest.census:
        if row.component == "backbone" or row.op == "Lookup":
            part = {"experts": _EXPERTS, "head": _HEAD}.get(row.group, _DENSE)
            parts[part] += row.bytes * _share(row, chosen)
    for spec in manifest.components["backbone"].inputs:
        if spec.state == "in-place":
            row_bytes = math.prod(size for size in spec.shape if isinstance(size, int)) * np.dtype(spec.dtype).itemsize
            parts[_CACHE] += row_bytes * position
    return {name: round(size) for name, size in parts.items() if size}


def weight_bytes(manifest: Manifest) -> int:
    """Return the bytes of all weights of a bundle, scales included."""
    return sum(row.bytes for row in manifest.census)


def read_bandwidth(threads: int, *, buffer_bytes: int = _BUFFER_BYTES, passes: int = _PASSES) -> list[float]:
    """Return the bytes a second of each of ``passes`` readings of a buffer by ``threads`` threads.

    One more comes first and does not count. Every thread takes the largest number of its own part, in one numpy call,
    which lets go of Python's lock and computes on 64 bytes or so at a time.
    """
    parts = np.array_split(np.ones(buffer_bytes, np.int8), threads)  # ones: every page is written, none shared
    taken = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(1 + passes):
            begun_s = time.perf_counter()
            list(pool.map(np.max, parts))
            taken.append(time.perf_counter() - begun_s)
    return [buffer_bytes / seconds for seconds in taken[1:]]


def _share(row: CensusRow, chosen: int | None) -> float:
    """Return which part of a weight one token reads."""
    if row.op in _BY_ROW:
        return 1 / row.shape[0]
    if row.op in _BANKS and chosen is not None:
        return min(1.0, chosen / row.shape[0])
    return 1.0


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(read_bandwidth(int(sys.argv[1]))).decode() + "\n")
