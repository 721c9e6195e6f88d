#!/usr/bin/env python3
"""Measure what INT4 loses of a float bundle's backbone by how the scale of a block is found, and print a table.

    edgekit export whisper-base -o bundles/base-float32 --precision float32
    python profiles/bench/int4-scales.py bundles/base-float32

The loss is the root mean square of the differences / that of the weights, over every matrix that INT4 takes.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import open_bundle
from edgekit.exporter.quantize import HIGHEST_INT4, LOWEST_INT4, dequantize_blocks, quantize_blocks
from edgekit.exporter.source import Source, bundle_source
from edgekit.exporter.tables import JoinedTensors

Float = NDArray[np.float32]
Form = Callable[[Float], Float]
BLOCKS = (128, 64, 32, 16)
FINE = np.linspace(0.6, 1.0, 21, dtype=np.float32)
GROUPS = ("backbone", "experts")


def nothing_cut(blocks: Float) -> Float:
    """Return blocks (n, size) rounded with a scale of their largest weight / 7."""
    return _rounded(blocks, np.abs(blocks).max(axis=1) / np.float32(7), -7)


def best_of_six(blocks: Float, *, turned: bool) -> Float:
    """Return blocks as an export writes them."""
    size = blocks.shape[1]
    return dequantize_blocks(*quantize_blocks(blocks, 4, size, turned=turned), 4, size)


def best_of_many(blocks: Float) -> Float:
    """Return blocks rounded with the best of 42 scales of either sign."""
    largest = np.abs(blocks).max(axis=1) / np.float32(7)
    return _best(blocks, (_rounded(blocks, sign * largest * share, -8) for sign in (1, -1) for share in FINE))


def zero_point(blocks: Float) -> Float:
    """Return blocks rounded between their smallest and largest weight, with the best of 11 shares of that range."""
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)

    def rounded(share: np.float32) -> Float:
        scale = ((high - low) * share / 15)[:, None]
        safe = np.where(scale == 0, 1, scale)
        zero = np.rint(-low[:, None] * share / safe)
        return np.asarray((np.clip(np.rint(blocks / safe) + zero, 0, 15) - zero) * scale, np.float32)

    return _best(blocks, (rounded(share) for share in FINE[::2]))


def _rounded(blocks: Float, scales: Float, lowest: int) -> Float:
    scale = scales[:, None]
    return np.clip(np.rint(blocks / np.where(scale == 0, 1, scale)), lowest, HIGHEST_INT4) * scale


def _best(blocks: Float, tried: Iterator[Float]) -> Float:
    best, least = blocks, np.full(len(blocks), np.inf, np.float32)
    for one in tried:
        loss = np.square(one - blocks).sum(axis=1)
        best = np.where((loss < least)[:, None], one, best)
        least = np.minimum(loss, least)
    return best


FORMS: dict[str, Form] = {
    "largest weight / 7, nothing is cut": nothing_cut,
    "best of six, positive": lambda blocks: best_of_six(blocks, turned=False),
    "best of six, either sign": lambda blocks: best_of_six(blocks, turned=True),
    "best of 42, either sign": best_of_many,
    "zero point, best of 11 ranges": zero_point,
}


def matrices(source: Source) -> Iterator[Float]:
    """Yield every matrix (rows, width) of the groups."""
    opened, tensors = source.opened, JoinedTensors(source.tensors, source.opened)
    for name in sorted({opened.stored(one) for one in opened.expected() if opened.group(one) in GROUPS}):
        shape = tensors.shape(name)
        yield tensors.rows(name, 0, shape[0]).reshape(-1, shape[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="a float32 bundle")
    source = bundle_source(open_bundle(parser.parse_args().bundle))
    lost = {(form, block): 0.0 for form in FORMS for block in BLOCKS}
    whole = 0.0
    for matrix in matrices(source):
        whole += float(np.square(matrix, dtype=np.float64).sum())
        for block in BLOCKS:
            blocks = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % block))).reshape(-1, block)
            for name, form in FORMS.items():
                lost[name, block] += float(np.square(form(blocks) - blocks, dtype=np.float64).sum())
    print(f"{source.name}: codes from {LOWEST_INT4} to {HIGHEST_INT4}, blocks of")
    print("| scale | " + " | ".join(str(block) for block in BLOCKS) + " |")
    print("| --- |" + " ---: |" * len(BLOCKS))
    for name in FORMS:
        print(f"| {name} | " + " | ".join(f"{(lost[name, block] / whole) ** 0.5:.4f}" for block in BLOCKS) + " |")


if __name__ == "__main__":
    main()
