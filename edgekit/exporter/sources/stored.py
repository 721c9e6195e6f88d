"""What lies in a checkpoint's files: JSON objects, and float tensors read by row blocks.

Knows offsets, number formats and finiteness. Does not know file formats: `checkpoint` (safetensors) and `ctranslate2`
find the tensors, this module reads them.

Blocks are read into ordinary memory. The safetensors library (0.8) maps the file instead, for numpy slices too: every
page touched counts as resident memory until the file is closed, so walking a 16 GB checkpoint shows as 16 GB. It also
hands out no BF16 as numpy unless another package has registered that type.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError

FLOATS: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where one row-major tensor lies. kind: the format's own word for the number type; offset: bytes into the file."""

    name: str
    path: Path
    kind: str
    shape: tuple[int, ...]
    offset: int

    def part(self, name: str, start: int, stop: int) -> "StoredTensor":
        """Return rows [start, stop) as a tensor of its own, without reading anything."""
        assert 0 <= start <= stop <= self.shape[0], (self.name, start, stop, self.shape)
        offset = self.offset + start * self._row_bytes()
        return replace(self, name=name, shape=(stop - start, *self.shape[1:]), offset=offset)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of the first axis as float32; a scalar counts as one row.

        Raises CheckpointError if the numbers are not F32, F16 or BF16, not finite, or no longer in the file.
        """
        assert 0 <= start <= stop <= (self.shape[0] if self.shape else 1), (self.name, start, stop, self.shape)
        stored = np.empty((stop - start, *self.shape[1:]), self._dtype())
        self._fill(stored, self.offset + start * self._row_bytes())
        return finite(stored.astype(np.float32, copy=False), self.name, start, scalar=not self.shape)

    def _dtype(self) -> np.dtype[Any]:
        if self.kind not in FLOATS:
            raise CheckpointError(
                f"{self.name}: stored as {self.kind}, export reads F32, F16 and BF16; take the original float weights"
            )
        return FLOATS[self.kind]

    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self._dtype().itemsize

    def _fill(self, stored: NDArray[Any], offset: int) -> None:
        rest = stored.reshape(-1).view(np.uint8).data  # as bytes: bfloat16 arrays offer no buffer of their own
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset)
            while len(rest):
                count = file.readinto(rest)
                if not count:
                    raise CheckpointError(
                        f"{self.path.name}: ends {len(rest)} bytes before the end of {self.name}; fetch the file again"
                    )
                rest = rest[count:]


def finite(block: NDArray[np.float32], name: str, start: int, *, scalar: bool = False) -> NDArray[np.float32]:
    """Return rows of a tensor, the first of them row ``start``; raises CheckpointError at the first NaN or infinity."""
    good = np.isfinite(block)
    if not good.all():
        bad = np.unravel_index(int(np.argmin(good)), block.shape)
        where = [] if scalar else [int(bad[0]) + start, *(int(i) for i in bad[1:])]
        raise CheckpointError(
            f"{name}: {block[bad]} at index {where}, weights must be finite; fetch the checkpoint again"
        )
    return block


class Rows(Protocol):
    """A tensor that can be read by row blocks, wherever it lies."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of the first axis as finite float32; a scalar counts as one row."""
        ...


@dataclass(frozen=True)
class StoredTensors:
    """An opened checkpoint: its folder, its config.json and generation_config.json as dicts, and its named tensors."""

    folder: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    tensors: Mapping[str, Rows]

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor; reads nothing."""
        return self._find(name).shape

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as finite float32; a scalar counts as one row."""
        return self._find(name).rows(start, stop)

    def _find(self, name: str) -> Rows:
        if name not in self.tensors:
            raise CheckpointError(f"{name}: no such tensor in {self.folder}; is the checkpoint of another family?")
        return self.tensors[name]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises CheckpointError if it is missing, not JSON or not an object."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; a checkpoint folder holds {path.name}") from error
    return parse_object(text, str(path))


def parse_object(text: bytes | str, source: str) -> dict[str, Any]:
    """Return the JSON object in text; source names it in errors. A key that appears twice is an error."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: not readable as JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: a JSON {type(value).__name__}, must be an object; fetch the file again")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' appears twice")
    return found
