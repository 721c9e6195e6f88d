"""TokenTable: rows of an embedding, read from the bundle's file when they are looked up, without loading or mapping it.

A tied table lies in the head's own bytes, so the device holds those weights once.
"""

import math
from collections.abc import Sequence

import numpy as np

from edgekit.bundle import Bundle, Embedding, TensorRef
from edgekit.bundle.checks import embedding_fault
from edgekit.bundle.files import HeldFile
from edgekit.errors import BundleFormatError
from edgekit.runtime.engine import Array

_ZERO_POINTS = {8: 128.0, 4: 8.0}  # of unsigned codes; signed ones have none


class TokenTable:
    """A token table of a bundle; a file that is cut meanwhile is a BundleFormatError at the row that it lacks."""

    def __init__(self, bundle: Bundle, embedding: Embedding | None = None) -> None:
        """Open the table, the backbone's own if no other is given.

        Raises BundleFormatError if it does not fit its file or its own description.
        """
        embedding = embedding or bundle.manifest.embedding
        if fault := embedding_fault(embedding):
            raise BundleFormatError(f"{bundle.folder}: {fault}; export it again")
        self.width = embedding.width
        self._bits = embedding.bits
        self._weight = _Rows(bundle.open(embedding.weight.file), embedding.weight)
        self._scales = _Rows(bundle.open(embedding.scales.file), embedding.scales) if embedding.scales else None
        self.vocabulary = int(self._weight.shape[0])

    def rows(self, tokens: Sequence[int]) -> Array:
        """Return the rows of ``tokens`` as (n, width) float32, the caller's own.

        Raises BundleFormatError for a token outside the table: tokenizer and table are then of different models.
        """
        ids = np.asarray(tokens, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary):
            raise BundleFormatError(
                f"token {ids.max()}: the table has {self.vocabulary} rows; the bundle's tokenizer is of another model"
            )
        codes = self._weight.read(ids)
        if self._scales is None:
            return codes.astype(np.float32, copy=False)
        return self._dequantised(codes, self._scales.read(ids))

    def row(self, token: int) -> Array:
        """Return the row of ``token`` as (width,) float32, quicker than ``rows`` does and not to be written to."""
        if not 0 <= token < self.vocabulary:
            self.rows((token,))  # raises
        if self._scales is None:
            plain = self._weight.row(token)
            return plain.astype(np.float32, copy=False)
        return self._dequantised(self._weight.row(token), self._scales.row(token))

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


class _Rows:
    """A tensor inside a file, read row by row."""

    def __init__(self, file: HeldFile, ref: TensorRef) -> None:
        self.shape = tuple(ref.shape)
        self.dtype = np.dtype(ref.dtype).newbyteorder("<")
        self._file = file
        self._offset = ref.offset
        size = math.prod(ref.shape) * self.dtype.itemsize
        if ref.offset < 0 or size < 1 or ref.offset + size > file.bytes:
            raise BundleFormatError(
                f"{file.label}: token table wants bytes {ref.offset} to {ref.offset + size}, "
                f"the file has {file.bytes}; export it again"
            )
        self._row_bytes = size // self.shape[0]

    def row(self, index: int) -> Array:
        """Return one row, not to be written to."""
        content = self._file.read(self._offset + index * self._row_bytes, self._row_bytes)
        row: Array = np.frombuffer(content, self.dtype).reshape(self.shape[1:])
        return row

    def read(self, indices: Array) -> Array:
        """Return rows (n, ...), the caller's own."""
        size, offset, read = self._row_bytes, self._offset, self._file.read
        content = bytearray().join([read(offset + index * size, size) for index in indices.tolist()])
        rows: Array = np.frombuffer(content, self.dtype).reshape(len(indices), *self.shape[1:])
        return rows
