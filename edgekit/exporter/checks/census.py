"""The census: every weight of a bundle with its stored dtype, consuming op and bytes, read back from the files.

``check_census`` is what makes INT8 mean INT8: a tensor that the recipe quantises and that is stored as float, or is fed
to an op that would compute with it in float, fails the command.
"""

from collections.abc import Mapping

from edgekit.bundle import CensusRow, Precision
from edgekit.errors import CensusError
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families.base import Opened
from edgekit.exporter.quantize import SCALE
from edgekit.exporter.tables import COPY, LOOKUP
from edgekit.exporter.written import Layout, WrittenWeight
from edgekit.recipe import Group, QuantizeSettings, flag

_CODES: Mapping[Precision, tuple[str, ...]] = {"int8": ("uint8", "int8"), "int4": ("uint8", "int4")}


def take_census(opened: Opened, weights: Mapping[str, WrittenWeight]) -> tuple[CensusRow, ...]:
    """Return one row for each stored weight tensor, in the order of the graphs."""
    groups = {opened.stored(name): opened.group(name) for name in opened.expected()}
    scales = {name + SCALE for name in weights}  # a name that ends so may be a layer's own scale
    rows = []
    for name, weight in weights.items():
        layout = _layout(weight, weights.get(name + SCALE))
        rows.append(
            CensusRow(
                component=weight.component,
                tensor=name,
                dtype=_dtype(weight, layout),
                shape=weight.shape,
                op=weight.op,
                bytes=weight.bytes,
                float32_bytes=0 if name in scales else _float32_bytes(weight, layout),
                group=groups.get((name.removesuffix(SCALE) if name in scales else name).removeprefix(COPY)) or "float",
            )
        )
    return tuple(rows)


def check_census(
    opened: Opened,
    dialect: Dialect,
    rows: tuple[CensusRow, ...],
    precision: Mapping[Group, Precision],
    settings: QuantizeSettings,
) -> None:
    """Raise CensusError unless every tensor that the recipe quantises is stored and consumed in its precision.

    What ``settings.encoder_finer`` names, and nothing else, is consumed by the dialect's ``finer_op``.
    """
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
        if row.dtype.split(" ")[0] not in bits or row.op not in (*dialect.packings, LOOKUP):
            raise CensusError(
                f"{at}: stored as {row.dtype} for {row.op}, the recipe says {group} = {precision[group]}; "
                f"export with {flag(group, 'float32')} if that is meant"
            )
        if precision[group] == "int8" and settings.finer(name) != (row.op == dialect.finer_op):
            raise CensusError(
                f"{at}: stored for {row.op}, of which quantize.encoder_finer says otherwise; report this as a bug of "
                f"dialect '{dialect.name}'"
            )
        if (row.dtype == "int4" or "4 bit" in row.dtype) and precision[group] != "int4":
            raise CensusError(f"{at}: stored in 4 bits, the recipe says {group} = {precision[group]}; export it again")
    quantised = any(kind != "float32" for kind in precision.values())
    for row in rows:
        if quantised and row.tensor not in named and row.op in dialect.products and row.dtype.startswith("float"):
            raise CensusError(
                f"{row.tensor}: a {row.dtype} weight of {row.op} that no recipe names; report this as a bug"
            )


def ratio(rows: tuple[CensusRow, ...]) -> float | None:
    """Return bytes / float32 bytes of the quantised linear and expert weights, scales included; None if none is."""
    quantised = {row.tensor for row in rows if row.group != "float" and not row.dtype.startswith("float")}
    chosen = [row for row in rows if row.tensor.removesuffix(SCALE) in quantised]
    whole = sum(row.float32_bytes for row in chosen)
    return sum(row.bytes for row in chosen) / whole if whole else None


def _layout(weight: WrittenWeight, scales: WrittenWeight | None) -> Layout | None:
    if weight.dtype.kind == "f" or weight.packing is None or scales is None:
        return None
    return weight.packing.layout(weight, scales)


def _dtype(weight: WrittenWeight, layout: Layout | None) -> str:
    codes = weight.dtype.name
    if layout is None or layout.bits != 4:
        return codes
    return {"uint8": "uint8 (4 bit)", "int8": "int4"}.get(codes, codes)


def _float32_bytes(weight: WrittenWeight, layout: Layout | None) -> int:
    if layout:  # padding of the last block is not weight
        return layout.rows * layout.width * 4
    return weight.bytes // weight.dtype.itemsize * 4
