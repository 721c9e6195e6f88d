"""Weights: named tensors of a checkpoint, written into a graph in the precision of their group.

One place decides which node a linear or a bank of experts becomes in the ``ort-cpu`` dialect: Gemm,
DynamicQuantizeMatMul or MatMulNBits, and a masked dense form, MoE or QMoE. Tensors are read by row blocks and never
held whole, except encoder linears that must be transposed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.exporter.checkpoint import Tensors, read
from edgekit.exporter.graph import MICROSOFT, GraphWriter
from edgekit.exporter.quantize import choose_block, choose_expert_block, quantize_blocks, quantize_channels
from edgekit.recipe import Group, QuantizeSettings

ROW_BLOCK_BYTES = 16 << 20
BITS: dict[Precision, int] = {"int8": 8, "int4": 4, "float32": 32}
ACCURACY_INT8_ACTIVATIONS = 4  # MatMulNBits accuracy_level: the only one with a fast 8-bit kernel on a CPU
SCALE = ".scale"

Float = NDArray[np.float32]
Report = Callable[[int], None]


def row_blocks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) so that one block of rows stays near 16 MiB."""
    step = max(1, ROW_BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


@dataclass(frozen=True, slots=True)
class ExpertBank:
    """The experts of one feed-forward, as a graph stores them.

    ``names`` are the stored names of the input projections (experts, inner, hidden; gate and up rows interleaved where
    ``gated``) and of the output projections (experts, hidden, inner); ``load(name, expert)`` gives one expert's matrix.
    ``bias`` names the bias of the input projections, experts x inner values. ``chosen`` is the most experts a token may
    have. ``group`` is the precision group of the matrices.
    """

    names: tuple[str, str]
    experts: int
    chosen: int
    inner: int
    hidden: int
    gated: bool
    load: Callable[[str, int], Float]
    bias: str | None = None
    group: Group = "experts"

    @property
    def first_rows(self) -> int:
        """Rows of one expert's input projection."""
        return self.inner * (2 if self.gated else 1)


@dataclass(slots=True)
class Weights:
    """A source of tensors bound to the precision of each group; ``report`` is told the bytes read so far."""

    source: Tensors
    precision: Mapping[Group, Precision]
    settings: QuantizeSettings
    report: Report = field(default=lambda _bytes: None)

    def read(self, name: str) -> Float:
        """Return a whole tensor as float32."""
        array = read(self.source, name)
        self.report(array.nbytes)
        return array

    def blocks(self, name: str) -> Iterator[tuple[int, Float]]:
        """Yield (row, rows) of a matrix in blocks."""
        rows, width = self.source.shape(name)
        for start, stop in row_blocks(rows, width * 4):
            block = self.source.rows(name, start, stop)
            self.report(block.nbytes)
            yield start, block

    def block(self, group: Group) -> int:
        """Return the largest block that the recipe allows in a group's linears and tables."""
        return self.settings.head_block if group == "head" else self.settings.backbone_block

    def plain(self, g: GraphWriter, name: str) -> str:
        """Store a tensor as float32 under its own name: norms, biases, convolutions, positions, routers."""
        return g.tensor(name, self.read(name))

    def linear(self, g: GraphWriter, x: str, name: str, group: Group, bias: str | None = None) -> str:
        """Return ``x @ weight.T + bias`` for x (rows, in) and the tensor ``name`` (out, in)."""
        rows, width = self.source.shape(name)
        offset = self.plain(g, bias) if bias else ""
        precision = self.precision[group]
        if precision == "float32":
            slot = g.weight(name, "float32", (rows, width))
            for row, block in self.blocks(name):
                slot.write(row, block)
            return g.node("Gemm", x, name, offset, transB=1)
        if precision == "int8" and group == "encoder":
            return self._linear_channels(g, x, name, offset)
        bits = BITS[precision]
        block_size = choose_block(width, self.block(group))
        count = -(-width // block_size)
        codes = g.weight(name, "uint8", (rows, count, block_size * bits // 8))
        scales = g.weight(name + SCALE, "float32", (rows, count))
        for row, block in self.blocks(name):
            block_codes, block_scales = quantize_blocks(block, bits, block_size)
            codes.write(row, block_codes)
            scales.write(row, block_scales)
        return g.node(
            "MatMulNBits", x, name, name + SCALE, "", "", offset, domain=MICROSOFT, bits=bits, block_size=block_size,
            K=width, N=rows, accuracy_level=ACCURACY_INT8_ACTIVATIONS,
        )  # fmt: skip

    def _linear_channels(self, g: GraphWriter, x: str, name: str, offset: str) -> str:
        codes, scales = quantize_channels(self.read(name))
        g.tensor(name, np.ascontiguousarray(codes.T))
        g.tensor(name + SCALE, scales)
        return g.node("DynamicQuantizeMatMul", x, name, name + SCALE, "", offset, domain=MICROSOFT)

    def experts(self, g: GraphWriter, x: str, logits: str, mix: str, bank: ExpertBank) -> str:
        """Return the weighted sum of expert outputs for x (rows, hidden).

        ``mix`` (rows, experts) holds each expert's weight, 0 for those not chosen (their work is skipped); ``logits``
        only rank them. Plain experts use GELU, gated ones SwiGLU.
        """
        bias = g.tensor(bank.bias, self.read(bank.bias).reshape(bank.experts, -1)) if bank.bias else ""
        if self.precision[bank.group] == "float32":
            return self._experts_float(g, x, mix, bank, bias)
        bits = BITS[self.precision[bank.group]]
        block = choose_expert_block(bank.hidden, bank.inner, self.settings.experts_block)
        for name, rows, width in (
            (bank.names[0], bank.first_rows, bank.hidden),
            (bank.names[1], bank.hidden, bank.inner),
        ):
            codes = g.weight(name, "uint8", (bank.experts, rows, width * bits // 8))
            scales = g.weight(name + SCALE, "float32", (bank.experts, rows, width // block))
            for expert in range(bank.experts):
                expert_codes, expert_scales = quantize_blocks(self._expert(name, bank, expert), bits, block)
                codes.write(expert, expert_codes.reshape(1, rows, -1))
                scales.write(expert, expert_scales[None])
        first, second = bank.names
        return g.node(
            "QMoE", x, logits, first, first + SCALE, bias, second, second + SCALE, "", "", "", "", "", "", "", mix,
            domain=MICROSOFT, k=bank.chosen, expert_weight_bits=bits, block_size=block,
            accuracy_level=ACCURACY_INT8_ACTIVATIONS, normalize_routing_weights=0, **_activation(bank),
        )  # fmt: skip

    def _expert(self, name: str, bank: ExpertBank, expert: int) -> Float:
        rows = bank.load(name, expert)
        self.report(rows.nbytes)
        return rows

    def _experts_float(self, g: GraphWriter, x: str, mix: str, bank: ExpertBank, bias: str) -> str:
        first = g.weight(bank.names[0], "float32", (bank.experts, bank.first_rows, bank.hidden))
        second = g.weight(bank.names[1], "float32", (bank.experts, bank.hidden, bank.inner))
        for expert in range(bank.experts):
            first.write(expert, self._expert(bank.names[0], bank, expert)[None])
            second.write(expert, self._expert(bank.names[1], bank, expert)[None])
        if not bank.gated:
            return _masked_experts(g, x, mix, bank, bias)
        # The MoE op has no input for mixing weights. Its own softmax of log(mix) returns them divided by their sum.
        total = g.node("ReduceSum", mix, g.constant([1]), keepdims=1)
        mixed = g.node(
            "MoE", x, g.node("Log", mix), bank.names[0], bias, bank.names[1], domain=MICROSOFT, k=bank.chosen,
            normalize_routing_weights=0, **_activation(bank),
        )  # fmt: skip
        return g.node("Mul", mixed, total)


def stored_expert(source: Tensors, name: str, expert: int) -> Float | None:
    """Return one expert's matrix if the source stores banks of experts, as a float bundle does; None if not."""
    if name in source.names() and len(source.shape(name)) == 3:
        return np.asarray(source.rows(name, expert, expert + 1)[0])
    return None


def _activation(bank: ExpertBank) -> dict[str, Any]:
    if bank.gated:
        return {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
    return {"activation_type": "gelu"}


def _masked_experts(g: GraphWriter, x: str, mix: str, bank: ExpertBank, bias: str) -> str:
    """Compute every expert and mask: exact, with erf GELU (the MoE op's is the tanh form, 2e-4 away)."""
    flat = g.constant([bank.experts * bank.inner, bank.hidden])
    hidden = g.node(
        "Gemm", x, g.node("Reshape", bank.names[0], flat), g.node("Reshape", bias, g.constant([-1])), transB=1
    )
    grouped = g.node("Reshape", g.node("Gelu", hidden), g.constant([-1, bank.experts, bank.inner]))
    masked = g.node("Mul", grouped, g.node("Unsqueeze", mix, g.constant([2])))
    rows = g.node("Reshape", masked, g.constant([-1, bank.experts * bank.inner]))
    out = g.node("Transpose", bank.names[1], perm=[0, 2, 1])
    return g.node("MatMul", rows, g.node("Reshape", out, g.constant([-1, bank.hidden])))
