"""The census: every weight of a bundle with its stored dtype, consuming op and bytes, read back from the files.

``check_census`` is what makes INT8 mean INT8: a tensor that the recipe quantises and that is stored as float, or is fed
to an op that would compute with it in float, fails the command.
"""

from collections.abc import Mapping

from edgekit.bundle import CensusRow, Precision
from edgekit.errors import CensusError
from edgekit.exporter.checks.written import WrittenWeight
from edgekit.exporter.families.base import Opened
from edgekit.exporter.quantize import SCALE
from edgekit.recipe import Group, flag

_QUANTISED_OPS = ("MatMulNBits", "DynamicQuantizeMatMul", "QMoE", "Lookup", "DequantizeLinear")
_FLOAT_PRODUCTS = ("MatMul", "Gemm", "MoE", "Einsum", "FusedMatMul")
_CODES: Mapping[Precision, tuple[str, ...]] = {"int8": ("uint8", "int8"), "int4": ("uint8", "int4")}


def take_census(opened: Opened, weights: Mapping[str, WrittenWeight]) -> tuple[CensusRow, ...]:
    """Return one row for each stored weight tensor, in the order of the graphs."""
    groups = {opened.stored(name): opened.group(name) for name in opened.expected()}
    scales = {name + SCALE for name in weights}  # a name that ends so may be a layer's own scale
    return tuple(
        CensusRow(
            component=weight.component,
            tensor=name,
            dtype=_dtype(weight),
            shape=weight.shape,
            op=weight.op,
            bytes=weight.bytes,
            float32_bytes=0 if name in scales else _float32_bytes(weight),
            group=groups.get(name.removesuffix(SCALE) if name in scales else name) or "float",
        )
        for name, weight in weights.items()
    )


def check_census(opened: Opened, rows: tuple[CensusRow, ...], precision: Mapping[Group, Precision]) -> None:
    """Raise CensusError unless every tensor that the recipe quantises is stored and consumed in its precision."""
    stored = {row.tensor: row for row in rows}
    named: set[str] = set()
    for name in opened.expected():
        group = opened.group(name)
        at = opened.stored(name)
        named.add(at)
        row = stored.get(at)
        if row is None:
            raise CensusError(f"{at}: not in any graph, the recipe expects it; report this as a bug of the family")
        if group is None or precision[group] == "float32":
            continue
        bits = _CODES[precision[group]]
        if row.dtype.split(" ")[0] not in bits or row.op not in _QUANTISED_OPS:
            raise CensusError(
                f"{at}: stored as {row.dtype} for {row.op}, the recipe says {group} = {precision[group]}; "
                f"export with {flag(group, 'float32')} if that is meant"
            )
        if (row.dtype == "int4" or "4 bit" in row.dtype) and precision[group] != "int4":
            raise CensusError(f"{at}: stored in 4 bits, the recipe says {group} = {precision[group]}; export it again")
    quantised = any(kind != "float32" for kind in precision.values())
    for row in rows:
        if quantised and row.tensor not in named and row.op in _FLOAT_PRODUCTS and row.dtype.startswith("float"):
            raise CensusError(
                f"{row.tensor}: a {row.dtype} weight of {row.op} that no recipe names; report this as a bug"
            )


def ratio(rows: tuple[CensusRow, ...]) -> float | None:
    """Return bytes / float32 bytes of the quantised linear and expert weights, scales included; None if none is."""
    quantised = {row.tensor for row in rows if row.op in _QUANTISED_OPS and not row.dtype.startswith("float")}
    chosen = [row for row in rows if row.tensor.removesuffix(SCALE) in quantised]
    whole = sum(row.float32_bytes for row in chosen)
    return sum(row.bytes for row in chosen) / whole if whole else None


def _bits(weight: WrittenWeight) -> int:
    if weight.op == "QMoE":
        return int(weight.attributes["expert_weight_bits"])
    return int(weight.attributes.get("bits", 8 * weight.dtype.itemsize))


def _dtype(weight: WrittenWeight) -> str:
    codes = weight.dtype.name
    if _bits(weight) != 4:
        return codes
    return {"uint8": "uint8 (4 bit)", "int8": "int4"}.get(codes, codes)


def _float32_bytes(weight: WrittenWeight) -> int:
    if weight.dtype.kind == "f":
        return weight.bytes // weight.dtype.itemsize * 4
    if weight.op in ("MatMulNBits", "Lookup"):  # padding of the last block is not weight
        return weight.shape[0] * int(weight.attributes["K"]) * 4
    return weight.bytes * 8 * 4 // _bits(weight)
