"""What lies in a checkpoint's files: JSON objects, and float tensors read by row blocks.

Knows offsets, number formats and finiteness. Does not know file formats: `checkpoint` (safetensors) and `ctranslate2`
find the tensors, this module reads them.

Blocks are read into ordinary memory. The safetensors library (0.8) maps the file instead, for numpy slices too: every
page touched counts as resident memory until the file is closed, so walking a 16 GB checkpoint shows as 16 GB. It also
hands out no BF16 as numpy unless another package has registered that type.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.plainfiles import open_plain, read_plain
from edgekit.reprs import short

LARGEST_CONFIG = 8 << 20  # bytes of a JSON object that says sizes and settings; published ones have a hundredth
LARGEST_LIST = 128 << 20  # of one that lists tensors or tokens: a vocabulary of a quarter of a million has 35 MB
DEEPEST = 64  # objects and lists within each other
MOST_AXES, LARGEST_TENSOR = 16, 1 << 40  # numbers of one tensor
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # perhaps half a surrogate

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
        with opened(self.path) as file:
            file.seek(offset)
            while len(rest):
                count = file.readinto(rest)
                if not count:
                    raise CheckpointError(
                        f"{self.path.name}: ends {len(rest)} bytes before the end of {self.name}; fetch the file again"
                    )
                rest = rest[count:]


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file of weights for a block; raises CheckpointError if it is no regular file or cannot be read."""
    try:
        with open_plain(path) as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; fetch the missing file") from error


def can_be(shape: Sequence[int]) -> bool:
    """Return whether a tensor can have a shape, of an empty one too, whose sizes its bytes do not bound."""
    if len(shape) > MOST_AXES or any(size > LARGEST_TENSOR for size in shape):
        return False
    return math.prod(max(1, size) for size in shape) <= LARGEST_TENSOR


def check_shape(shape: Sequence[int], label: str) -> None:
    """Return if a tensor can have a shape; raises CheckpointError, which begins with the label, if not."""
    if not can_be(shape):
        raise CheckpointError(
            f"{label} has shape {short(tuple(shape[: MOST_AXES + 1]))}, at most {MOST_AXES} axes and {LARGEST_TENSOR} "
            "numbers can be; fetch the file again"
        )


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


def read_object(path: Path, most: int = LARGEST_CONFIG) -> dict[str, Any]:
    """Return the JSON object in a file of at most so many bytes.

    Raises CheckpointError if it is missing, larger, no regular file, not JSON or not an object.
    """
    return parse_object(read_file(path, most), str(path))


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a checkpoint's file; raises CheckpointError if it is missing, larger or no regular file."""
    try:
        return read_plain(path, most)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; a checkpoint folder holds {path.name}") from error


def parse_object(text: bytes | str, source: str) -> dict[str, Any]:
    """Return the JSON object in UTF-8 text, ``source`` naming it in errors.

    Raises CheckpointError also for a key that appears twice, for more than DEEPEST things within each other, and for
    half a surrogate, which no file can hold that is written of it.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"), object_pairs_hook=_unique)
        _check_depth(value)
        if _HALF.search(text if isinstance(text, bytes) else text.encode()):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: not readable as JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: a JSON {type(value).__name__}, must be an object; fetch the file again")
    return value


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, (dict, list)) and one]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} things within each other")
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise ValueError(f"'{next(name for name, _ in pairs if name in seen or seen.add(name))}' appears twice")  # type: ignore[func-returns-value]
    return found
