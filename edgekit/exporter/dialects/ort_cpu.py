"""The ``ort-cpu`` dialect: onnxruntime's fused attention and its ops on quantised weights; phases in float64.

A linear becomes Gemm, DynamicQuantizeMatMul or MatMulNBits, a bank of experts a masked dense form, MoE or QMoE. Every
cache is bound once and written in place.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import CensusRow, Requirements
from edgekit.bundle.dialects import MICROSOFT, Activations, op_list
from edgekit.exporter.dialects.base import LOWEST_ONNXRUNTIME, SoundBlocks
from edgekit.exporter.dialects.codes import BLOCKS, EXPERTS
from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.dialects.steps import Attention, Routing, SlidingWindow, Steps
from edgekit.exporter.graph import GraphWriter, Versions
from edgekit.exporter.quantize import (
    BITS,
    SCALE,
    SMOOTHING,
    choose_block,
    choose_expert_block,
    quantize_channels,
)
from edgekit.exporter.weights import Float, Weights
from edgekit.exporter.written import Layout, Packing, WrittenWeight
from edgekit.recipe import EncoderActivations, Group

ACCURACY_INT8_ACTIVATIONS = 4  # MatMulNBits accuracy_level: the only one with a fast 8-bit kernel on a CPU
_ONE = np.ones(1, np.float32)
_SMALLEST = 1e-30  # magnitude that a row of zeros is divided by
_FLOAT, _DOUBLE = 1, 11  # onnx's element types


class OrtSound:
    """See SoundBlocks."""

    def attention(self, g: GraphWriter, q: str, keys: str, values: str, bias: str, *, heads: int, head_dim: int) -> str:
        """Return MultiHeadAttention."""
        out = g.node(
            "MultiHeadAttention", q, keys, values, "", "", bias, domain=MICROSOFT, num_heads=heads,
            scale=head_dim**-0.5,
        )  # fmt: skip
        return g.node("Reshape", out, g.constant([-1, heads * head_dim]))

    def sliding_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], at: SlidingWindow, *, heads: int, head_dim: int
    ) -> str:
        """Return RotaryEmbedding and MultiHeadAttention."""
        batch = g.constant([0])
        q, keys, values = rows

        def rotated(x: str, first: int) -> str:
            row = g.node("Unsqueeze", x, batch)
            return g.node(
                "RotaryEmbedding", row, g.constant([first]), at.cos, at.sin, domain=MICROSOFT, num_heads=heads
            )

        out = g.node(
            "MultiHeadAttention", rotated(q, at.past), rotated(keys, 0), g.node("Unsqueeze", values, batch), "", "",
            at.bias, domain=MICROSOFT, num_heads=heads, scale=head_dim**-0.5,
        )  # fmt: skip
        return g.node("Squeeze", out, batch)

    def turns(self, g: GraphWriter, pitch: str, rate: int, frame: int, overtones: int) -> tuple[str, str]:
        """Return sums of float64, one number a frame: float32 rounds each by more than a sum of hundreds can bear."""
        turn, rates, frames, numbers = (
            g.node("Cast", g.constant(np.asarray(exact, np.float32)), to=_DOUBLE)
            for exact in (1, rate, frame, np.arange(1, overtones + 1))
        )
        sung = g.node("Mul", g.node("Cast", pitch, to=_DOUBLE), numbers)
        step = g.node("Mod", g.node("Div", sung, rates), turn, fmod=1)
        moved = g.node("CumSum", g.node("Mul", step, frames), g.constant(np.array(0)))
        made = g.node("Cast", g.node("Mod", moved, turn, fmod=1), to=_FLOAT)
        return g.node("Unsqueeze", made, g.constant([1])), g.node("Cast", step, to=_FLOAT)


class ColumnCodes:
    """Signed codes (width, rows) with a scale for each of the rows, as ops take them that multiply whole numbers."""

    def pack(self, g: GraphWriter, w: Weights, name: str, smoothing: Float = _ONE) -> None:
        """Store a matrix, divided by what its input is multiplied by, and its scales under its own name."""
        codes, scales = quantize_channels(w.read(name) / smoothing)
        g.tensor(name, np.ascontiguousarray(codes.T))
        g.tensor(name + SCALE, scales)

    def layout(self, weight: WrittenWeight, scales: WrittenWeight) -> Layout:
        """Return the matrix."""
        del scales
        width, rows = weight.shape
        return Layout(rows, width, width, 8)

    def unpack(self, weight: WrittenWeight, scales: WrittenWeight, start: int, stop: int) -> tuple[Float, Float]:
        """Return numbers and scales of rows [start, stop)."""
        part = scales.rows(start, stop)[:, None]
        return weight.read()[:, start:stop].T.astype(np.float32) * part, part


_COLUMNS = ColumnCodes()


class OrtDialect:
    """See the module docstring."""

    name = "ort-cpu"
    versions = Versions({"": op_list("ort-cpu").opset, MICROSOFT: 1}, op_list("ort-cpu").ir_version)
    int4_versions = versions  # its codes of 4 bits are bytes
    fixed_shapes = False
    encoder_activations: EncoderActivations = "dynamic"
    finer_op: str | None = "MatMulIntegerToFloat"
    packings: Mapping[str, Packing] = {
        "MatMulNBits": BLOCKS, "QMoE": EXPERTS, "DynamicQuantizeMatMul": _COLUMNS, "MatMulIntegerToFloat": _COLUMNS,
    }  # fmt: skip
    products: tuple[str, ...] = ("MatMul", "Gemm", "MoE", "Einsum", "FusedMatMul")
    sound: SoundBlocks = OrtSound()
    head_steps: tuple[int, int] = (8, 16)  # GroupQueryAttention of onnxruntime 1.31 and 1.32 on CPUs says so

    def check(self, graph: Path, activations: Activations) -> None:
        """Refuse nothing: onnxruntime has a kernel on the CPU for every op that a family asks for."""

    def requires(self, census: Sequence[CensusRow]) -> Requirements:
        """Return onnxruntime's version."""
        del census  # its graphs are alike whatever their weights are
        return Requirements(opset=self.versions.opsets[""], onnxruntime=LOWEST_ONNXRUNTIME)

    def rms_norm(self, g: GraphWriter, x: str, weight: str, epsilon: float) -> str:
        """Return RMSNorm; see Dialect."""
        return g.node("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon)

    def steps(self, g: GraphWriter, x: str, start: str) -> Steps:
        """Return Steps with the int32 forms that GroupQueryAttention wants."""
        count = g.node("Shape", x, start=0, end=1)
        total = g.node("Add", start, count)
        last = g.node("Cast", g.node("Sub", total, g.constant([1])), to=6)  # int32
        scalar = g.node("Squeeze", g.node("Cast", total, to=6), g.constant([0]))
        return Steps(start, total, last, scalar)

    def rows_at(self, g: GraphWriter, table: str, at: Steps) -> str:
        """Return a slice of the table."""
        return g.node("Slice", table, at.start, at.total, g.constant([0]))

    def cached_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], layer: int, at: Steps, how: Attention
    ) -> str:
        """Return GroupQueryAttention, which writes k and v into the cache it attends to."""
        shape = (1, how.kv_heads, how.capacity, how.head_dim)
        past = [g.input(f"past.{kind}.{layer}", g.activations, shape, "in-place") for kind in ("key", "value")]
        batch = g.constant([0])
        cos, sin = how.rotary or ("", "")
        attended, *present = g.nodes(
            "GroupQueryAttention",
            *(g.node("Unsqueeze", x, batch) for x in rows),
            *past,
            at.last,
            at.total_scalar,
            cos,
            sin,
            "",
            how.bias,
            domain=MICROSOFT,
            outs=(None, f"present.key.{layer}", f"present.value.{layer}"),
            num_heads=how.heads,
            kv_num_heads=how.kv_heads,
            causal=int(how.causal),
            do_rotary=int(how.rotary is not None),
            scale=how.head_dim**-0.5,
        )
        for name in present:
            g.output(name, name, g.activations, shape, "in-place")
        return g.node("Squeeze", attended, batch)

    def attention(self, g: GraphWriter, q: str, key: str, value: str, *, heads: int, head_dim: int) -> str:
        """Return MultiHeadAttention."""
        batch = g.constant([0])
        out = g.node(
            "MultiHeadAttention", g.node("Unsqueeze", q, batch), key, value, domain=MICROSOFT, num_heads=heads,
            scale=head_dim**-0.5,
        )  # fmt: skip
        return g.node("Squeeze", out, batch)

    def linear(self, g: GraphWriter, w: Weights, x: str, name: str, *, group: Group, bias: str) -> str:
        """Return Gemm; for an encoder's INT8 DynamicQuantizeMatMul, or its finer form; or MatMulNBits."""
        rows, width = w.source.shape(name)
        precision = w.precision[group]
        if precision == "float32":
            return g.node("Gemm", x, w.matrix(g, name), bias, transB=1)
        if precision == "int8" and group == "encoder":
            if w.settings.finer(name):
                smoothing = w.smoothing.get(name, _ONE)
                _COLUMNS.pack(g, w, name, smoothing)
                return _by_rows(g, _smoothed(g, x, name, smoothing), name, bias)
            _COLUMNS.pack(g, w, name)
            return g.node("DynamicQuantizeMatMul", x, name, name + SCALE, "", bias, domain=MICROSOFT)
        bits = BITS[precision]
        block_size = choose_block(width, w.block(group))
        BLOCKS.pack(g, w, name, bits, block_size, turned=True)
        return g.node(
            "MatMulNBits", x, name, name + SCALE, "", "", bias, domain=MICROSOFT, bits=bits, block_size=block_size,
            K=width, N=rows, accuracy_level=ACCURACY_INT8_ACTIVATIONS,
        )  # fmt: skip

    def experts(self, g: GraphWriter, w: Weights, x: str, routing: Routing, bank: ExpertBank) -> str:
        """Return QMoE, or MoE, or for plain float experts every expert masked."""
        bias = bank.store_bias(g, w)
        if w.precision[bank.group] == "float32":
            first, second = bank.store_plain(g, w)
            if not bank.gated:
                return _masked_experts(g, x, routing.mix, bank, bias)
            # The MoE op has no input for mixing weights.
            logits, total = as_logits(g, routing.mix)
            mixed = g.node(
                "MoE", x, logits, first, bias, second, domain=MICROSOFT, k=bank.chosen,
                normalize_routing_weights=0, **activation(bank),
            )  # fmt: skip
            return g.node("Mul", mixed, total)
        bits = BITS[w.precision[bank.group]]
        block = choose_expert_block(bank.hidden, bank.inner, w.settings.experts_block, bank.group)
        EXPERTS.pack(g, w, bank, bits, block, turned=True)
        first, second = bank.names
        return g.node(
            "QMoE", x, routing.logits, first, first + SCALE, bias, second, second + SCALE, *[""] * 7, routing.mix,
            domain=MICROSOFT, k=bank.chosen, expert_weight_bits=bits, block_size=block,
            accuracy_level=ACCURACY_INT8_ACTIVATIONS, normalize_routing_weights=0, **activation(bank),
        )  # fmt: skip


def _smoothed(g: GraphWriter, x: str, name: str, by: Float) -> str:
    """Return ``x`` with its channels about equally loud, as the weights of a linear expect it; once for all of them."""
    if (by == 1).all():
        return x
    return g.shared(f"smoothed.{x}.{by.tobytes().hex()}", lambda: g.node("Mul", x, g.tensor(name + SMOOTHING, by)))


def _by_rows(g: GraphWriter, x: str, name: str, bias: str) -> str:
    """Return ``x @ weight.T + bias``, each row of x scaled to a largest magnitude of 1 before it becomes whole numbers.

    Then one large number makes only its own row coarse. onnxruntime makes one DynamicQuantizeMatMul of the middle.
    """

    def magnitude() -> str:
        ends = [g.node(op, x, g.constant([1]), keepdims=1) for op in ("ReduceMax", "ReduceMin")]
        return g.node("Max", ends[0], g.node("Neg", ends[1]), g.constant(_SMALLEST))

    largest = g.shared(f"rows.largest.{x}", magnitude)
    rows = g.shared(f"rows.{x}", lambda: g.node("Div", x, largest))
    codes, scale, zero = g.nodes("DynamicQuantizeLinear", rows, outs=(None, None, None))
    out = g.node("MatMulIntegerToFloat", codes, name, scale, name + SCALE, zero, domain=MICROSOFT)
    out = g.node("Mul", out, largest)
    return g.node("Add", out, bias) if bias else out


def as_logits(g: GraphWriter, mix: str) -> tuple[str, str]:
    """Return logits of which the softmax is ``mix`` (S, experts) divided by its sums (S, 1), and these."""
    total = g.node("ReduceSum", mix, g.constant([1]), keepdims=1)
    return g.node("Log", mix), total


def activation(bank: ExpertBank) -> dict[str, Any]:
    """Return the attributes of MoE and QMoE for what experts do between their projections."""
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
