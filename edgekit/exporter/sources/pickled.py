"""Pickled weights: what ``torch.save`` writes, opened as named float tensors; needs no torch and runs nothing.

Knows torch's zip format: a pickle that describes the tensors, and one uncompressed entry for each storage. A pickle can
name any function for its reader to call; this reader knows only those that put a tensor together, does itself what they
would do, and refuses a file that names another. Of storages only what is asked for is read.
"""

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.opcodes import Allowed, Named, Opcodes
from edgekit.exporter.sources.stored import can_be, finite, opened

# Storage classes that torch's pickles name, and their numbers. Those of the second table are recognised, never read.
NUMBERS: Mapping[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
}
OTHERS: Mapping[str, int] = {
    "DoubleStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
LARGEST_PICKLE, LARGEST_NOTE = 16 << 20, 64  # bytes; the tensors of a 30 B model are described in half of it
LONGEST_NAME = 1024  # characters; of names within names all are joined
MOST_NAMES = 100_000
DEEPEST = 16  # dicts within dicts
EXACT = 1 << 24  # whole numbers beyond it are not all float32
_OLD_PICKLE = b"\x80"
_LOCAL_HEADER = 30  # bytes of a zip entry's own header before its name; source: APPNOTE.TXT 4.3.7
_AGAIN = "fetch the file again"


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where one storage lies: torch's name of its class, bytes into the file, and how many numbers it has."""

    kind: str
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as numbers of a storage; ``first`` and ``strides`` are counted in numbers."""

    storage: _Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int


class _Reader(Opcodes):
    """Reads tensors as _View; ``storages`` finds a storage by its key."""

    def __init__(self, path: Path, storages: Callable[[str, str], _Storage]) -> None:
        super().__init__(self._named, self._stored)
        self._path, self._storages = path, storages

    def _named(self, module: str, name: str) -> object:
        """Return our own form of what a pickle names, if it is one of those that make a tensor."""
        if module == "torch" and (name in NUMBERS or name in OTHERS):
            return name
        if found := _ALLOWED.get((module, name)):
            return found
        raise CheckpointError(
            f"{self._path}: wants to run {_short(f'{module}.{name}')} when it is read, a plain file of weights runs "
            "nothing; do not load it elsewhere either, take the published file"
        )

    def _stored(self, identity: object) -> _Storage:
        """Return the storage that a tensor names: ("storage", class, key, device, count)."""
        match identity:
            case ("storage", str(kind), str(key), str(), int(count)) if kind in NUMBERS or kind in OTHERS:
                storage = self._storages(key, kind)
                if count > storage.count:
                    raise _damaged(self._path, f"storage {_short(key)} has {storage.count} numbers, more are announced")
                return storage
        raise _damaged(self._path, f"a storage is named by a {type(identity).__name__} of another form")


def _rebuild_tensor(
    storage: object, first: object, shape: object, strides: object, _grad: object = None, _hooks: object = None,
    _metadata: object = None,
) -> _View:  # fmt: skip
    """Return what torch._utils._rebuild_tensor_v2 describes; raises if it leaves its storage."""
    if not (isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise TypeError("a tensor of no storage")
    numbers = (first, *shape, *strides)
    # Nothing of it is shown: a short pickle can make tuples that take for ever to write down.
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a tensor whose shape and strides are not as many whole numbers from 0")
    if not can_be(shape):
        raise ValueError("a tensor of more axes or numbers than can be")
    assert isinstance(first, int)
    last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.count:
        raise ValueError(f"a tensor ends beyond its storage of {storage.count} numbers")
    if math.prod(shape) > storage.count:  # by strides of 0, a few bytes would be any number of numbers
        raise ValueError(f"a tensor has more numbers than its storage, {storage.count}")
    return _View(storage, shape, strides, first)


def _rebuild_parameter(view: object, _grad: object = None, _hooks: object = None) -> object:
    return view


def _ordered(*items: object) -> Named:
    if items:
        raise ValueError("an OrderedDict with arguments")
    return Named()


_ALLOWED: Mapping[tuple[str, str], Allowed] = {
    ("torch._utils", "_rebuild_tensor_v2"): Allowed(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Allowed(_rebuild_parameter),
    ("collections", "OrderedDict"): Allowed(_ordered),
}


@dataclass(frozen=True)
class PickledTensors:
    """The tensors of one opened file, by name; dicts within dicts are joined by dots."""

    path: Path
    tensors: Mapping[str, _View]

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor; reads nothing."""
        return self._find(name).shape

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as finite float32; a scalar counts as one row.

        Raises CheckpointError if its numbers are of another kind than NUMBERS, not finite, whole but too large for
        float32, or no longer in the file.
        """
        view = self._find(name)
        kind = view.storage.kind
        if kind not in NUMBERS:
            raise CheckpointError(
                f"{name}: stored as {kind}, export reads {', '.join(NUMBERS)}; take the original float weights"
            )
        assert 0 <= start <= stop <= (view.shape[0] if view.shape else 1), (name, start, stop, view.shape)
        if view.shape:
            view = replace(view, shape=(stop - start, *view.shape[1:]), first=view.first + start * view.strides[0])
        stored = self._map(view)
        if kind == "LongStorage" and ((stored > EXACT) | (stored < -EXACT)).any():
            raise CheckpointError(f"{name}: holds whole numbers beyond {EXACT}, float32 does not; it is no weight")
        block = np.array(stored, np.float32, order="C")
        scalar = not view.shape
        return finite(block.reshape(1) if scalar else block, name, start, scalar=scalar)

    def _find(self, name: str) -> _View:
        if name not in self.tensors:
            raise CheckpointError(f"{name}: no such tensor in {self.path}; is the checkpoint of another family?")
        return self.tensors[name]

    def _map(self, view: _View) -> NDArray[Any]:
        """Return the numbers of a view without reading more than it needs."""
        number = NUMBERS[view.storage.kind]
        if math.prod(view.shape) == 0:
            return np.zeros(view.shape, number)
        numbers = 1 + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
        # Read and not mapped: a mapped file that becomes shorter ends the process.
        stored = np.empty(numbers * number.itemsize, np.uint8)
        with opened(self.path) as file:
            file.seek(view.storage.offset + view.first * number.itemsize)
            if file.readinto(stored.data) < stored.size:
                raise _damaged(self.path, "it became shorter since it was opened")
        strides = tuple(stride * number.itemsize for stride in view.strides)
        return np.ndarray(view.shape, number, stored.data, 0, strides)


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """One of the tensors of an opened file."""

    file: PickledTensors
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; reads nothing."""
        return self.file.shape(self.name)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of the first axis as finite float32; raises what PickledTensors.rows does."""
        return self.file.rows(self.name, start, stop)


def open_pickled(path: str | PathLike[str]) -> PickledTensors:
    """Return the tensors of a file that ``torch.save`` wrote; runs nothing that it names, and reads no storage.

    Raises CheckpointError if it is no such file, cut short, damaged, of the format before torch 1.6, or names anything
    but tensors.
    """
    path = Path(path)
    with opened(path) as file:
        if file.read(1) == _OLD_PICKLE:
            raise CheckpointError(
                f"{path}: a bare pickle, as torch wrote before 1.6; zip files of weights are read: save it again "
                "with a newer torch"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                return PickledTensors(path, _names(path, _describe(path, archive)))
        except (CheckpointError, OSError):
            raise
        except Exception as error:  # a damaged zip fails in any way that it likes
            raise CheckpointError(
                f"{path}: not a whole zip file of weights ({_short(str(error))}), perhaps cut short or a git-lfs "
                f"pointer; {_AGAIN}"
            ) from error


def _describe(path: Path, archive: zipfile.ZipFile) -> object:
    """Return what the archive's pickle describes, tensors as _View."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise _damaged(path, "two of its entries have one name")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _damaged(path, f"{len(pickles)} entries are called data.pkl, one is needed")
    root = pickles[0].removesuffix("data.pkl")
    if _content(path, archive, entries.get(root + "byteorder"), LARGEST_NOTE, b"little")[:6] != b"little":
        raise CheckpointError(f"{path}: saved on a big-endian machine, little-endian is read; save it again elsewhere")

    def find(key: str, kind: str) -> _Storage:
        found = entries.get(f"{root}data/{key}")
        if found is None:
            raise _damaged(path, f"storage {_short(key)} is not in it")
        width = NUMBERS[kind].itemsize if kind in NUMBERS else OTHERS[kind]
        return _Storage(kind, _offset(path, archive, found), found.file_size // width)

    text = _content(path, archive, entries[pickles[0]], LARGEST_PICKLE)
    try:
        return _Reader(path, find).read(text)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle fails in any way that it likes
        raise _damaged(path, f"its description does not read: {_short(str(error))}") from error


def _content(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None, most: int, default: bytes = b""
) -> bytes:
    """Return the bytes of an entry, which is stored as it is and has no more than ``most``."""
    if entry is None:
        return default
    if entry.file_size > most:
        raise _damaged(path, f"{_short(entry.filename)} has {entry.file_size} bytes, at most {most} are read")
    _offset(path, archive, entry)
    return archive.read(entry)


def _offset(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Return where an entry's bytes begin in the file, which they do as they are: uncompressed."""
    file = archive.fp
    assert file is not None
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise _damaged(path, f"entry {_short(entry.filename)} is not where the zip's table says")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise CheckpointError(f"{path}: compressed or encrypted, torch stores weights as they are; save it again")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    offset = entry.header_offset + _LOCAL_HEADER + lengths
    if offset + entry.file_size > file.seek(0, 2):
        raise _damaged(path, f"entry {_short(entry.filename)} ends beyond the file")
    return offset


def _names(path: Path, content: object) -> dict[str, _View]:
    """Return every tensor in dicts within dicts; numbers, texts and lists beside them are passed over."""
    found: dict[str, _View] = {}
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    visited = 0
    while waiting:
        name, value, depth = waiting.pop()
        visited += 1
        if len(name) > LONGEST_NAME:
            raise _damaged(path, f"a name of more than {LONGEST_NAME} characters")
        if depth > DEEPEST or visited > MOST_NAMES:
            raise _damaged(path, f"dicts deeper than {DEEPEST} or more than {MOST_NAMES} names")
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}" if name else str(key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, _View):
            if name in found:
                raise _damaged(path, f"two tensors are called {_short(name)}")
            found[name] = value
    if not found:
        raise CheckpointError(f"{path}: no tensors in its dicts, a file of weights is needed; {_AGAIN}")
    return found


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, {what}; {_AGAIN}")


def _short(text: str) -> str:
    """Return text from a stranger's file as one short line."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
