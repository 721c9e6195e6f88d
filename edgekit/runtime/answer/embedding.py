"""TokenTable: rows of an embedding, looked up in the bundle's file without loading it.

A tied table lies in the head's own bytes, so the device holds those weights once.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle, Embedding, TensorRef
from edgekit.bundle.checks import embedding_fault
from edgekit.errors import BundleFormatError
from edgekit.runtime.engine import Array

_ZERO_POINTS = {8: 128.0, 4: 8.0}  # of unsigned codes; signed ones have none


class TokenTable:
    """A token table of a bundle; pages of the file are read when a row is first used."""

    def __init__(self, bundle: Bundle, embedding: Embedding | None = None) -> None:
        """Map the table, the backbone's own if no other is given.

        Raises BundleFormatError if it does not fit its file or its own description.
        """
        embedding = embedding or bundle.manifest.embedding
        if fault := embedding_fault(embedding):
            raise BundleFormatError(f"{bundle.folder}: {fault}; export it again")
        self.width = embedding.width
        self._bits = embedding.bits
        self._weight = _map(bundle.file(embedding.weight.file), embedding.weight)
        self._scales = _map(bundle.file(embedding.scales.file), embedding.scales) if embedding.scales else None
        self.vocabulary = int(self._weight.shape[0])

    def rows(self, tokens: Sequence[int]) -> Array:
        """Return the rows of ``tokens`` as (n, width) float32.

        Raises BundleFormatError for a token outside the table: tokenizer and table are then of different models.
        """
        ids = np.asarray(tokens, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary):
            raise BundleFormatError(
                f"token {ids.max()}: the table has {self.vocabulary} rows; the bundle's tokenizer is of another model"
            )
        codes = self._weight[ids]
        if self._scales is None:
            return np.ascontiguousarray(codes, np.float32)
        return self._dequantised(codes, self._scales[ids])

    def row(self, token: int) -> Array:
        """Return the row of ``token`` as (width,) float32, quicker than ``rows`` does and not to be written to."""
        if not 0 <= token < self.vocabulary:
            self.rows((token,))  # raises
        if self._scales is None:
            plain: Array = self._weight[token]
            return plain.astype(np.float32, copy=False)
        return self._dequantised(self._weight[token], self._scales[token])

    def _dequantised(self, codes: Array, scales: Array) -> Array:
        """Return rows (..., width) of codes (..., blocks, bytes) and their scales (..., blocks)."""
        signed = codes.dtype.kind == "i"
        if self._bits == 4:  # low nibble first
            packed = codes.view(np.uint8) ^ 0x88 if signed else codes  # with a zero point
            codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(*codes.shape[:-1], 2 * codes.shape[-1])
            signed = False
        centred = codes.astype(np.float32) - np.float32(0 if signed else _ZERO_POINTS[self._bits])
        blocks = centred * scales.astype(np.float32)[..., None]
        return np.ascontiguousarray(
            blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * blocks.shape[-1])[..., : self.width]
        )


def _map(path: Path, ref: TensorRef) -> Array:
    """Return a read-only view of a tensor inside a file."""
    dtype = np.dtype(ref.dtype).newbyteorder("<")
    size = math.prod(ref.shape) * dtype.itemsize
    if ref.offset < 0 or size < 1 or ref.offset + size > path.stat().st_size:
        raise BundleFormatError(
            f"{path}: token table wants bytes {ref.offset} to {ref.offset + size}, "
            f"the file has {path.stat().st_size}; export it again"
        )
    return np.asarray(np.memmap(path, dtype, "r", ref.offset, ref.shape))  # indexing a plain view costs half
