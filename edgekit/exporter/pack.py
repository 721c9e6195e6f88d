"""Pack: build a bundle in a folder beside its final place and publish it by one rename.

A half-written bundle cannot exist: whatever fails, a full disk included, the temporary folder is removed. The same
inputs give the same bytes; what differs between runs (time, versions) goes into ``provenance.json``, which the manifest
does not list.
"""

import errno
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.atomic import draft_folder
from edgekit.bundle import Embedding, FileEntry, Manifest, TensorRef, encode, hash_file
from edgekit.errors import OutputError
from edgekit.exporter.graph import Array
from edgekit.exporter.quantize import BITS, choose_block, quantize_blocks
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import WrittenWeight
from edgekit.recipe import Group

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
EMBEDDING = "embedding.data"
_PAGE = 4096
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def building(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``output`` that becomes it when the block ends well, and vanishes when not.

    Raises OutputError if the output exists and may not be replaced, or if the disk does not take it.
    """
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; pass --overwrite to replace it, or choose another --output")
    if output.is_symlink() or (output.exists() and not _replaceable(output)):
        raise OutputError(f"{output}: is not a bundle, so it is not replaced; choose another --output")
    with draft_folder(output, refused="cannot be created ({reason}); choose another --output") as draft:
        try:
            yield draft.path
            draft.publish()
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise OutputError(
                f"{output}: {error.strerror}; nothing was left behind, free space and try again"
            ) from error


def _replaceable(output: Path) -> bool:
    """Return whether ``output`` is an empty folder or holds a bundle's manifest, of whatever version."""
    if not output.is_dir():
        return False
    try:
        manifest = json.loads((output / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return not any(output.iterdir())
    return isinstance(manifest, dict) and {"format_version", "components"} <= manifest.keys()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys: the same content gives the same bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_array(folder: Path, name: str, array: Array) -> None:
    """Write one array as ``NAME.npy`` below ``folder``."""
    path = folder / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # np.save straight to a file reports a full disk without its errno
    np.save(buffer, np.ascontiguousarray(array))
    path.write_bytes(buffer.getvalue())


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Return size and hash of every file of a bundle under construction, but for manifest and provenance."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileEntry(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=hash_file(path))
        for path in paths
        if path.name not in (MANIFEST, PROVENANCE)
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json."""
    (folder / MANIFEST).write_bytes(encode(manifest))


def tied_embedding(folder: Path, weight: WrittenWeight, scales: WrittenWeight | None) -> Embedding | None:
    """Return the token table as a view of the head's own bytes; None if the host cannot look rows up in them."""
    if scales is None:
        bits = 8 * weight.dtype.itemsize
        return Embedding(weight=_ref(folder, weight), scales=None, width=weight.shape[1], bits=bits)
    layout = weight.packing.layout(weight, scales) if weight.packing else None
    if layout is None or not layout.looked_up:
        return None
    blocks = -(-layout.width // layout.block)
    codes = msgspec.structs.replace(_ref(folder, weight), shape=(layout.rows, blocks, layout.block * layout.bits // 8))
    steps = msgspec.structs.replace(_ref(folder, scales), shape=(layout.rows, blocks))
    return Embedding(weight=codes, scales=steps, width=layout.width, block_size=layout.block, bits=layout.bits)


def write_embedding(folder: Path, w: Weights, name: str, group: Group | None, file: str = EMBEDDING) -> Embedding:
    """Write a token table into a file of its own, in the precision of its group, and return where it lies."""
    rows, width = w.source.shape(name)
    precision = w.precision[group] if group else "float32"
    path = folder / file
    if group is None or precision == "float32":
        with path.open("wb") as stream:
            for _, block in w.blocks(name):
                stream.write(block.data)
        return Embedding(
            weight=TensorRef(file=file, offset=0, dtype="float32", shape=(rows, width)), scales=None, width=width
        )
    bits, size = BITS[precision], choose_block(width, w.block(group))
    blocks = -(-width // size)
    shape = (rows, blocks, size * bits // 8)
    start = -(-rows * blocks * shape[2] // _PAGE) * _PAGE
    with path.open("wb") as stream:
        for row, block in w.blocks(name):
            codes, scales = quantize_blocks(block, bits, size, turned=True)
            stream.seek(row * blocks * shape[2])
            stream.write(codes.data)
            stream.seek(start + row * blocks * 4)
            stream.write(scales.data)
    return Embedding(
        weight=TensorRef(file=file, offset=0, dtype="uint8", shape=shape),
        scales=TensorRef(file=file, offset=start, dtype="float32", shape=(rows, blocks)),
        width=width, block_size=size, bits=bits,
    )  # fmt: skip


def _ref(folder: Path, weight: WrittenWeight) -> TensorRef:
    assert weight.offset is not None, "a token table is never inline"
    file = weight.file.relative_to(folder).as_posix()
    return TensorRef(file=file, offset=weight.offset, dtype=weight.dtype.name, shape=weight.shape)
