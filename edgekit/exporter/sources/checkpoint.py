"""Checkpoints: a config and named float tensors, read lazily by row blocks.

Knows the published folder layout (config.json, and safetensors or pickled weights in one file or in shards) and refuses
what cannot be exported from: quantised weights, pickles that are more than weights, damaged files. Knows no
architecture: families say which tensors they want.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.sources.ctranslate2 import CTranslate2Checkpoint, is_container
from edgekit.exporter.sources.pickled import PickledTensor, open_pickled
from edgekit.exporter.sources.stored import (
    LARGEST_LIST,
    StoredTensor,
    StoredTensors,
    check_shape,
    opened,
    parse_object,
    read_object,
)

# Bits per number in a safetensors file. Source: safetensors, `Dtype`; the F8, F6 and F4 kinds are told by two letters.
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16}
BITS |= {"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64}
BITS_OF_SMALL = {"F8": 8, "F6": 6, "F4": 4}
LONGEST_HEADER = 32 << 20  # bytes, of a quarter of a million tensors; the format's own limit is 100 MB
COMPARED_ROWS = 4096  # of two tensors at a time
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


class Tensors(Protocol):
    """Anything that hands out named float tensors by row blocks."""

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as finite float32; a scalar counts as one row."""
        ...


class Checkpoint(StoredTensors):
    """A folder of config.json, perhaps generation_config.json, and weights; only headers are in memory."""


class SideBySide:
    """Several sources as one. Raises CheckpointError if two of them hold a tensor of the same name."""

    def __init__(self, *sources: Tensors) -> None:
        self._sources: dict[str, Tensors] = {}
        for source in sources:
            for name in sorted(source.names()):
                if name in self._sources:
                    raise CheckpointError(f"{name}: is in two files, one tensor has one place; fetch them again")
                self._sources[name] = source

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self._sources[name].shape(name)

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows [start, stop) of one tensor's first axis as finite float32."""
        return self._sources[name].rows(name, start, stop)


@dataclass(frozen=True, slots=True)
class Beside:
    """A checkpoint with what its family keeps in files of its own beside config.json and safetensors.

    ``config`` tells of them what a bundle must know. ``recordings``: of people, by the name of the voice that each is
    to become, with the published graphs in the folder ``hearing``.
    """

    tensors: Tensors
    config: Mapping[str, Any]
    recordings: Mapping[str, Path] = field(default_factory=dict)
    hearing: Path = Path()


def read(tensors: Tensors, name: str) -> NDArray[np.float32]:
    """Return one whole tensor as finite float32."""
    shape = tensors.shape(name)
    return tensors.rows(name, 0, shape[0] if shape else 1).reshape(shape)


def _nothing(_name: str) -> bool:
    return False


def check_copies(tensors: Tensors, copied: Callable[[str], str | None]) -> None:
    """Return if every tensor that must repeat another one does. Raises CheckpointError naming both if one differs."""
    for name in sorted(tensors.names()):
        if (original := copied(name)) is None:
            continue
        shape = tensors.shape(original)
        blocks = range(0, shape[0], COMPARED_ROWS) if tensors.shape(name) == shape else ()
        if not blocks or any(
            (tensors.rows(name, start, stop) != tensors.rows(original, start, stop)).any()
            for start, stop in ((start, min(start + COMPARED_ROWS, shape[0])) for start in blocks)
        ):
            raise CheckpointError(
                f"{name}: differs from {original}, which it must repeat where config.json ties them "
                "(tie_word_embeddings); take the published weights, or take the one that is wrong out"
            )


def check_names(
    tensors: Tensors, expected: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool] = _nothing
) -> None:
    """Return if the tensors are exactly those expected, by name and shape; extra ones may be ignored by name.

    Raises CheckpointError naming the first tensor that is missing, unexpected or misshapen, and counting the others.
    """
    names = tensors.names()
    missing = sorted(expected.keys() - names)
    extra = sorted(name for name in names - expected.keys() if not ignored(name))
    if missing:
        name = missing[0]
        hint = f", and {extra[0]} {list(tensors.shape(extra[0]))} is not expected" if extra else ""
        raise CheckpointError(
            f"{name}: missing{_more(missing)}, expected with shape {list(expected[name])}{hint}; "
            "fetch the whole checkpoint, or name its real family"
        )
    if extra:
        name = extra[0]
        raise CheckpointError(
            f"{name}: shape {list(tensors.shape(name))}, not expected by this family{_more(extra)}; "
            "check that config.json belongs to these weights"
        )
    misshapen = sorted(name for name in expected if tensors.shape(name) != tuple(expected[name]))
    if misshapen:
        name = misshapen[0]
        raise CheckpointError(
            f"{name}: shape {list(tensors.shape(name))}, config.json implies {list(expected[name])}{_more(misshapen)}; "
            "check that config.json belongs to these weights"
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint | CTranslate2Checkpoint:
    """Return the checkpoint in a folder (or beside a config.json), of the kind that the folder holds.

    Reads the config first, then headers only. Raises CheckpointError if it is incomplete, damaged or quantised.
    """
    folder = Path(path)
    if folder.name == "config.json" and not folder.is_dir():
        folder = folder.parent
    if not folder.is_dir():
        raise CheckpointError(f"{path}: not a folder; give the checkpoint's folder or its config.json")
    files, pickled = _weight_files(folder), _pickled_files(folder)
    if not files and is_container(folder / "model.bin"):
        return CTranslate2Checkpoint.open(folder)
    if not files and not pickled and (folder / "model.bin").is_file():
        raise CheckpointError(
            f"{folder / 'model.bin'}: no container of CTranslate2, which this name stands for; if torch.save wrote it, "
            f"call it {PICKLED}"
        )
    if not files and not pickled:
        raise CheckpointError(
            f"{folder}: no *.safetensors here; give the folder that holds config.json and the weights, or pass "
            "--dummy-weights to measure its shape"
        )
    config = read_object(folder / "config.json")
    refuse_quantised(config, folder / "config.json")
    generation_path = folder / "generation_config.json"
    generation = read_object(generation_path) if generation_path.exists() else {}
    return Checkpoint(folder, config, generation, _gather(folder, files) if files else _gather_pickled(folder, pickled))


def _pickled_files(folder: Path) -> dict[str, frozenset[str]]:
    """Return file name -> the tensors that the index promises there, of weights that ``torch.save`` wrote."""
    if (folder / PICKLED).exists():
        return {PICKLED: frozenset()}
    return read_index(folder / PICKLED_INDEX) if (folder / PICKLED_INDEX).exists() else {}


def _gather_pickled(folder: Path, files: Mapping[str, Iterable[str]]) -> dict[str, PickledTensor]:
    found: dict[str, PickledTensor] = {}
    for shard, promised in sorted(files.items()):
        opened = open_pickled(folder / shard)
        _check_shard(folder / shard, promised, opened.names(), {name: one.file.path for name, one in found.items()})
        found |= {name: PickledTensor(opened, name) for name in opened.names()}
    return found


def refuse_quantised(value: object, source: Path) -> None:
    """Raise CheckpointError for a config of weights that were quantised before.

    Searches the config and the configs inside it (text_config, thinker_config.text_config, ...).
    """
    if not isinstance(value, dict):
        return
    found = value.get("quantization_config") or value.get("compression_config")
    if found:
        method = found.get("quant_method", "unnamed method") if isinstance(found, dict) else found
        raise CheckpointError(
            f"{source}: pre-quantised checkpoint ({method}): export needs the original float weights; take those"
        )
    for inner in value.values():
        refuse_quantised(inner, source)


def _weight_files(folder: Path) -> dict[str, frozenset[str]]:
    """Return file name -> the tensors that the index promises there (none if there is no index)."""
    if (folder / "model.safetensors").exists():
        return {"model.safetensors": frozenset()}
    indexes = sorted(file.name for file in folder.glob("*.safetensors.index.json"))
    singles = sorted(file.name for file in folder.glob("*.safetensors"))
    if "model.safetensors.index.json" in indexes:
        indexes = ["model.safetensors.index.json"]
    if len(indexes) == 1:
        return read_index(folder / indexes[0])
    if indexes or len(singles) > 1:
        raise CheckpointError(
            f"{folder}: {len(indexes)} indexes and {len(singles)} safetensors files, must be one index or one file; "
            "keep model.safetensors, or its shards with model.safetensors.index.json"
        )
    return {name: frozenset() for name in singles}


def read_index(path: Path) -> dict[str, frozenset[str]]:
    """Return shard -> the tensors that an index promises there; raises CheckpointError for another kind of file."""
    weight_map = read_object(path, LARGEST_LIST).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map of tensor names to files; fetch the index again")
    files: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _stays_inside(shard):
            raise CheckpointError(f"{path}: {tensor} is said to be in {shard!r}, must be a file inside the folder")
        files.setdefault(shard, set()).add(tensor)
    return {shard: frozenset(tensors) for shard, tensors in files.items()}


def _stays_inside(shard: str) -> bool:
    # By its words only: download caches fill folders with links to files kept elsewhere, which is fine.
    path = PurePosixPath(shard)
    return (
        shard not in ("", ".")
        and not path.is_absolute()
        and ".." not in path.parts
        and not set(shard) & {"\\", ":", "\0"}
    )


def _gather(folder: Path, files: Mapping[str, Iterable[str]]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for shard, promised in sorted(files.items()):
        here = _read_header(folder / shard)
        _check_shard(folder / shard, promised, here, {name: one.path for name, one in found.items()})
        found |= here
    return found


def _check_shard(path: Path, promised: Iterable[str], here: Collection[str], elsewhere: Mapping[str, Path]) -> None:
    """Return if a shard holds what the index promises, and nothing that another one holds."""
    if lacking := sorted(set(promised) - set(here)):
        raise CheckpointError(f"{path}: lacks {lacking[0]} that the index promises; fetch the shard again")
    if twice := sorted(elsewhere.keys() & set(here)):
        first = elsewhere[twice[0]].name
        raise CheckpointError(f"{path}: {twice[0]} is also in {first}, one tensor has one place; fetch again")


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file. Layout: u64 header length, JSON header, data without gaps."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise CheckpointError(
                f"{path}: damaged, cut short or a git-lfs pointer, its header does not fit; fetch the file again"
            )
        header = parse_object(file.read(length), f"{path} header")
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = {}
    spans = []
    for name, entry in header.items():
        tensors[name], span = _parse_entry(name, entry, path, start)
        spans.append((span, name))
    end = 0
    for (begin, stop), name in sorted(spans):
        if begin != end:
            raise CheckpointError(f"{path}: data of {name} starts at {begin}, expected {end}; fetch the file again")
        end = stop
    if start + end != size:
        raise CheckpointError(f"{path}: {size} bytes, its header says {start + end}; fetch the file again")
    return tensors


def _parse_entry(name: str, entry: object, path: Path, start: int) -> tuple[StoredTensor, tuple[int, int]]:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        kind, shape, begin, end = None, (), 0, 0
    if not isinstance(kind, str) or any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise CheckpointError(
            f"{path}: header entry of {name} lacks dtype, shape or data_offsets; fetch the file again"
        )
    check_shape(shape, f"{path}: {name}")
    bits = BITS_OF_SMALL.get(kind[:2]) or BITS.get(kind)
    if kind in ("I8", "U8") or kind[:2] in BITS_OF_SMALL:
        raise CheckpointError(
            f"{path}: {name} is stored as {kind}, pre-quantised checkpoint: export needs the original float weights"
        )
    if bits is None:
        raise CheckpointError(
            f"{path}: {name} is stored as {kind}, not a safetensors number type; fetch the file again"
        )
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise CheckpointError(
            f"{path}: {name} has {end - begin} bytes, {kind} {list(shape)} needs {math.prod(shape) * bits // 8}; "
            "fetch the file again"
        )
    return StoredTensor(name, path, kind, shape, start + begin), (begin, end)
