"""Write files as ``torch.save`` does, without torch: opcode by opcode, and what torch never writes."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}
KINDS |= {"float64": "DoubleStorage", "bool": "BoolStorage"}
BFLOAT16 = ml_dtypes.bfloat16
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    """Return a string."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """Return a whole number."""
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def many(*values: bytes) -> bytes:
    """Return a tuple."""
    return b"(" + b"".join(values) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Return what a function gives."""
    return function + many(*arguments) + b"R"


def ordered(items: Mapping[str, bytes]) -> bytes:
    """Return an OrderedDict with a note on it, as the state of a module has."""
    filled = call(b"ccollections\nOrderedDict\n") + b"(" + b"".join(text(key) + items[key] for key in items) + b"u"
    return filled + b"}" + text("_metadata") + b"}sb"


def storage(key: str, kind: str, count: int) -> bytes:
    """Return a storage."""
    return many(text("storage"), b"ctorch\n" + kind.encode() + b"\n", text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    key: str, kind: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], *, first: int = 0
) -> bytes:
    """Return a tensor of a storage of ``count`` numbers."""
    sizes, steps = (many(*(number(each) for each in values)) for values in (shape, strides))
    no_hooks = call(b"ccollections\nOrderedDict\n")
    return call(REBUILD, storage(key, kind, count), number(first), sizes, steps, b"\x89", no_hooks)


def whole(key: str, array: np.ndarray) -> bytes:
    """Return a row-major tensor that has a storage of its own."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return tensor(key, KINDS[array.dtype.name], array.size, array.shape, strides)


def write(
    path: Path,
    content: bytes,
    storages: Mapping[str, np.ndarray],
    *,
    compression: int = zipfile.ZIP_STORED,
    order: str = "little",
) -> Path:
    """Write a file whose pickle is ``content`` and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("archive/byteorder", order)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write row-major arrays by name, as a module's state is saved, and return the path."""
    stored = {str(index): array for index, array in enumerate(arrays.values())}
    items = {name: whole(str(index), array) for index, (name, array) in enumerate(arrays.items())}
    return write(path, ordered(items), stored)
