"""Which files an ONNX graph would make onnxruntime open, read from the file without the onnx package.

Knows the few protobuf fields of onnx.proto (IR version 12) under which a TensorProto may sit, and nothing else of ONNX.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgekit.errors import BundleFormatError

# Message -> field number -> message inside it. Source: onnx/onnx.proto.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_MAX_DEPTH = 100  # as protobuf's own readers


def external_locations(graph: Path) -> set[str]:
    """Return every external-data location named in an .onnx file, subgraphs and functions included.

    Raises BundleFormatError if the file is not well-formed protobuf.
    """
    if graph.stat().st_size == 0:  # an empty file cannot be mapped
        return set()
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_locations(data, 0, len(data), "model", 0))
        except (IndexError, ValueError) as error:
            raise BundleFormatError(f"{graph}: not a readable ONNX file ({error}); export it again") from error


def check_external_data(folder: Path, graph: str, data: str | None) -> None:
    """Raise BundleFormatError unless every external-data location in a graph leads to the manifest's ``data`` file.

    folder: the bundle's; graph, data: as the manifest names them; no data file for None. onnxruntime looks for a
    location beside the graph.
    """
    expected = None if data is None else PurePosixPath(data)
    for location in sorted(external_locations(folder / graph)):
        if location.startswith(("/", "\\")) or ":" in location or ".." in location.replace("\\", "/").split("/"):
            raise BundleFormatError(
                f"{folder / graph}: external data '{location}' leaves the bundle, which no graph may; "
                "do not use this bundle"
            )
        found = PurePosixPath(graph).parent / location
        if found != expected:
            raise BundleFormatError(
                f"{folder / graph}: external data '{found}', manifest says '{expected}'; export it again"
            )


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Yield the locations in one message of ``data[start:end]``."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages nested more than {_MAX_DEPTH} deep")
    inner = _FIELDS[message]
    for field, low, high in _fields(data, start, end):
        child = inner.get(field)
        if child == "entry":
            entry = {number: data[first:last] for number, first, last in _fields(data, low, high)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif child is not None:
            yield from _locations(data, low, high, child, depth + 1)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of each length-delimited field; other wire types are stepped over."""
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        match key & 7:
            case 0:
                _, position = _varint(data, position, end)
            case 1:
                position += 8
            case 2:
                size, low = _varint(data, position, end)
                position = low + size
                if position <= end:
                    yield key >> 3, low, position
            case 5:
                position += 4
            case kind:
                raise ValueError(f"wire type {kind} at byte {position}")
        if position > end:
            raise ValueError(f"field {key >> 3} runs over the end at byte {end}")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Return a base-128 number and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"number cut off at byte {end}")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"number longer than 10 bytes at byte {position}")
