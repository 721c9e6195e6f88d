"""Pack: build a bundle in a folder beside its final place and publish it in one step.

A half-written bundle cannot exist, see ``edgekit.atomic``, and nothing is replaced that is not a bundle's own. The same
inputs give the same bytes; what differs between runs (time, versions) goes into ``provenance.json``, which the manifest
does not list.
"""

import errno
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from edgekit.atomic import clear_leftovers, draft_folder
from edgekit.bundle import Embedding, FileEntry, Manifest, TensorRef, encode, hash_file
from edgekit.bundle.manifest import MANIFEST
from edgekit.bundle.trust import SIGNATURE
from edgekit.errors import OutputError
from edgekit.exporter.graph import Array
from edgekit.exporter.quantize import BITS, choose_block, quantize_blocks
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import WrittenWeight
from edgekit.recipe import Group

PROVENANCE = "provenance.json"
_UNLISTED = {MANIFEST, PROVENANCE, SIGNATURE}  # a bundle's own files that its manifest does not list
EMBEDDING = "embedding.data"
_PAGE = 4096
_MAX_MANIFEST_BYTES = 64 << 20
_LOG = logging.getLogger(__name__)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def building(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes ``output`` when the block ends well, and vanishes when not.

    Its parent is of the same file system and vanishes in either case: a place for what is needed meanwhile.
    Raises OutputError if the output exists and may not be replaced, if another export writes it, or if the disk does
    not take it.
    """
    with _refusing_to_place(output):
        alive = clear_leftovers(output)
    if alive:
        raise OutputError(f"{output}: another export is writing it; wait for that, or choose another --output")
    _check_replaceable(output, overwrite=overwrite)
    with draft_folder(output, refused="cannot be created ({reason}); choose another --output") as draft:
        try:
            yield draft.path
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise OutputError(
                f"{output}: {error.strerror}; nothing was left behind, free space and try again"
            ) from error
        _check_replaceable(output, overwrite=overwrite)  # again: that took a while
        was_signed = (output / SIGNATURE).exists()
        with _refusing_to_place(output):
            draft.publish(replace=overwrite)
        if was_signed:
            _LOG.warning("%s: the bundle that it replaces was signed and this one is not; sign it again", output)


@contextmanager
def _refusing_to_place(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{output}: {reason}; what was there is whole, free space or choose another --output"
        ) from error


def _check_replaceable(output: Path, *, overwrite: bool) -> None:
    """Raise OutputError if something is there that may not be replaced: but for an empty folder, all but a bundle.

    A bundle of whatever version, damaged or not, as long as its manifest tells which files are its own.
    """
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise OutputError(f"{output}: exists already; pass --overwrite to replace it, or choose another --output")
    if output.is_symlink() or not output.is_dir():
        raise OutputError(f"{output}: is not a bundle, so it is not replaced; choose another --output")
    if not any(output.iterdir()):
        return
    own = _own_files(output / MANIFEST)
    if own is None:
        raise OutputError(f"{output}: is not a bundle, so it is not replaced; choose another --output")
    folders = {str(parent) for file in own for parent in PurePosixPath(file).parents}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if name not in (folders if is_folder else own):
            raise OutputError(
                f"{output}: holds {name}, which is no part of the bundle; move it or choose another --output"
            )


def _own_files(manifest: Path) -> set[str] | None:
    """Return what a bundle's manifest says to be its files; None if it does not say that or is none."""
    try:
        if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not {"format_version", "components"} <= content.keys():
        return None
    files = content.get("files")
    if not isinstance(files, list):
        return None
    paths = (file.get("path") if isinstance(file, dict) else None for file in files)
    return _UNLISTED | {path for path in paths if isinstance(path, str)}


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
