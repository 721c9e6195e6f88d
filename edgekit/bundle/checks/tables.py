"""Token tables: numbers as their description says, inside their files."""

import math

from edgekit.bundle.faults import Faults, fault
from edgekit.bundle.manifest import Embedding, Manifest, TensorRef
from edgekit.bundle.ranges import DTYPES, LARGEST_SIZE, MOST_TOKENS

_KINDS = ("float32", "float16", "int8", "uint8")
_STORED = {32: ("float32",), 16: ("float16",)}
_CODED, _CODES, _FLOATS = (8, 4), ("uint8", "int8"), ("float32", "float16")


def table_faults(manifest: Manifest) -> Faults:
    """Yield what is wrong with the token tables."""
    for name, table in manifest.tables().items():
        path = name if name == "embedding" else f"speech.{name}"
        for part, ref in (("weight", table.weight), ("scales", table.scales)):
            if ref is not None:
                yield from _ref_faults(manifest, f"{path}.{part}", ref)
        if what := embedding_fault(table):
            yield fault(path, what)


def embedding_fault(table: Embedding) -> str | None:
    """Return how the parts of a token table contradict each other, None if they do not."""
    shape, width, bits, block = table.weight.shape, table.width, table.bits, table.block_size
    if not shape or shape[0] > MOST_TOKENS:
        return f"token table is {shape}, 1 to {MOST_TOKENS} rows are needed"
    wanted: tuple[int, ...] = (shape[0], width)
    if bits in _CODED:
        if what := _scales_fault(table):
            return what
        wanted = (shape[0], -(-width // block), block * bits // 8)
    elif bits in _STORED and table.scales is not None:
        return f"token table of {bits} bits has scales, only codes need them"
    if bits not in (*_STORED, *_CODED) or shape != wanted or table.weight.dtype not in _STORED.get(bits, _CODES):
        return f"token table is {table.weight.dtype} {shape}, {bits} bits of width {width} need {wanted}"
    return None


def _scales_fault(table: Embedding) -> str | None:
    scales, blocks = table.scales, (table.weight.shape[0], -(-table.width // max(1, table.block_size)))
    if scales is None or table.block_size < 1 or table.block_size * table.bits % 8:
        return (
            f"token table of {table.bits} bits, blocks of {table.block_size} and {'no' if scales is None else 'its'} "
            "scales, 8 or 4 bits need both"
        )
    if scales.shape != blocks:
        return f"scales of the token table are {scales.shape}, the table needs {blocks}"
    if scales.dtype not in _FLOATS:
        return f"scales of the token table are {scales.dtype}, float32 or float16 is needed"
    return None


def _ref_faults(manifest: Manifest, path: str, ref: TensorRef) -> Faults:
    if ref.dtype not in _KINDS:
        yield fault(f"{path}.dtype", f"is '{ref.dtype}', must be one of: {', '.join(_KINDS)}")
        return
    size = math.prod(ref.shape) * DTYPES[ref.dtype]
    available = next((entry.bytes for entry in manifest.files if entry.path == ref.file), 0)
    if size > LARGEST_SIZE or ref.offset + size > available:
        yield fault(path, f"token table wants bytes {ref.offset} to {ref.offset + size}, '{ref.file}' has {available}")
