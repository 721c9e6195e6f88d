"""The ``ort-cuda`` dialect: what onnxruntime's CUDA provider runs fast; see docs/bundle-format.md.

What multiplies is float16, everything else float32. Weights are codes in blocks of 32 with float16 scales and no zero
points, which its quickest kernels want; a cache is written in place. Shapes depend on no value, and where a call stands
in its cache is computed on the GPU, so that a step can be recorded as a CUDA graph. What is allowed here is kept in
``bundle/ops/ort-cuda.toml``, which every graph is checked against. None was run on a GPU yet.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from edgekit.bundle.dialects import MICROSOFT, Activations
from edgekit.errors import CheckpointError
from edgekit.exporter.dialects.base import SoundBlocks
from edgekit.exporter.dialects.codes import BLOCKS, EXPERTS
from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.dialects.ort_cpu import OrtDialect, activation, as_logits
from edgekit.exporter.dialects.ort_cuda.ops import BLOCK, EXPERT_TILE, check_cuda_ops, cuda_allow_list
from edgekit.exporter.dialects.standard.dialect import StandardDialect
from edgekit.exporter.dialects.standard.sound import StandardSound
from edgekit.exporter.dialects.steps import Attention, Routing, Steps
from edgekit.exporter.graph import GraphWriter, Versions
from edgekit.exporter.quantize import BITS, SCALE
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import Packing
from edgekit.recipe import EncoderActivations, Group

_LOWEST = -6e4  # float16 has nothing below -65504


class OrtCudaDialect(OrtDialect):
    """See the module docstring; what is not here is as in ``ort-cpu``."""

    name = "ort-cuda"
    versions = Versions({"": cuda_allow_list().opset, MICROSOFT: 1}, cuda_allow_list().ir_version)
    int4_versions = versions
    fixed_shapes = True
    encoder_activations: EncoderActivations = "float"
    finer_op: str | None = None
    packings: Mapping[str, Packing] = {"MatMulNBits": BLOCKS, "QMoE": EXPERTS}
    sound: SoundBlocks = StandardSound()
    head_steps: tuple[int, int] = (8, 16)

    def check(self, graph: Path, activations: Activations) -> None:
        """Refuse what is not in ``ort-cuda.toml``, but for a float twin, which runs on the CPU only."""
        if activations == "float16":
            check_cuda_ops(graph)

    def steps(self, g: GraphWriter, x: str, start: str) -> Steps:
        """Return Steps counted on the GPU.

        The number of rows is a sum of ones: a shape lies on the host, and what is added to it there would have to be
        copied over at each call, which no recorded step may do.
        """
        one = numpy_helper.from_array(np.array([1], np.int64))
        ones = g.node("ConstantOfShape", g.node("Shape", x, start=0, end=1), value=one)
        total = g.node("Add", start, g.node("ReduceSum", ones, keepdims=1))
        before = g.node("Sub", start, g.constant([1]))
        last = g.node("Cast", g.node("Sub", total, g.constant([1])), to=TensorProto.INT32)
        places = g.node("Add", g.node("CumSum", ones, g.constant(np.array(0))), before)
        return Steps(start, total, last, places=places)

    def rows_at(self, g: GraphWriter, table: str, at: Steps) -> str:
        """Return the table's rows, gathered: a slice's ends lie on the host."""
        return g.node("Gather", table, at.places, axis=0)

    def cached_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], layer: int, at: Steps, how: Attention
    ) -> str:
        """Return GroupQueryAttention over a cache in float16, of which it is told the whole length.

        ``last`` says how much of it is filled; the length is a number on the host, and so is the same at each call.
        """
        q, k, v = (g.narrow(x) for x in rows)
        length = (
            g.constant(np.array([how.capacity], np.int32)) if isinstance(how.capacity, int)
            else g.shared(f"cache.{how.capacity}", lambda: _length(g, f"past.key.{layer}"))
        )  # fmt: skip
        narrow = replace(
            how,
            rotary=(g.narrow(how.rotary[0]), g.narrow(how.rotary[1])) if how.rotary else None,
            bias=_bias_of_rows(g, q, how.bias) if how.bias else "",
        )
        attended = super().cached_attention(g, (q, k, v), layer, replace(at, total_scalar=length), narrow)
        return g.widen(attended)

    def attention(self, g: GraphWriter, q: str, key: str, value: str, *, heads: int, head_dim: int) -> str:
        """Return MultiHeadAttention in float16."""
        return g.widen(super().attention(g, g.narrow(q), key, value, heads=heads, head_dim=head_dim))

    def linear(self, g: GraphWriter, w: Weights, x: str, name: str, *, group: Group, bias: str) -> str:
        """Return Gemm or MatMulNBits in float16; the bias is added after it, since the quickest kernels take none."""
        rows, width = w.source.shape(name)
        precision = w.precision[group]
        if precision == "float32":
            out = g.node("Gemm", g.narrow(x), w.matrix(g, name), transB=1)
        else:
            bits = BITS[precision]
            BLOCKS.pack(g, w, name, bits, BLOCK, turned=False)  # no negative scale was tried on a GPU
            out = g.node(
                "MatMulNBits", g.narrow(x), name, name + SCALE, domain=MICROSOFT, bits=bits, block_size=BLOCK, K=width,
                N=rows,
            )  # fmt: skip
        out = g.widen(out)
        return g.node("Add", out, bias) if bias else out

    def experts(self, g: GraphWriter, w: Weights, x: str, routing: Routing, bank: ExpertBank) -> str:
        """Return QMoE of the codes as they are, which onnxruntime lays out for its kernels when it loads them.

        The CUDA kernel does not read mixing weights: its own softmax must give them. Plain float experts are as in
        ``standard``.
        """
        precision = w.precision[bank.group]
        if precision == "float32":
            return StandardDialect().experts(g, w, x, routing, bank)
        if bank.hidden % EXPERT_TILE or bank.inner % EXPERT_TILE:
            raise CheckpointError(
                f"experts of {bank.hidden} x {bank.inner}: onnxruntime's CUDA kernels want multiples of {EXPERT_TILE}; "
                f"export with --{bank.group} float32"
            )
        bits = BITS[precision]
        EXPERTS.pack(g, w, bank, bits, BLOCK, turned=False)
        first, second = bank.names
        bias = bank.store_bias(g, w)
        logits, total = as_logits(g, routing.mix)
        out = g.node(
            "QMoE", g.narrow(x), g.narrow(logits), first, first + SCALE, g.narrow(bias) if bias else "", second,
            second + SCALE, domain=MICROSOFT, k=bank.chosen, expert_weight_bits=bits, block_size=BLOCK,
            normalize_routing_weights=0, weights_prepacked=0, **activation(bank),
        )  # fmt: skip
        return g.node("Mul", g.widen(out), total)


def _length(g: GraphWriter, cache: str) -> str:
    return g.node("Cast", g.node("Shape", cache, start=2, end=3), to=TensorProto.INT32)


def _bias_of_rows(g: GraphWriter, x: str, bias: str) -> str:
    """Return a bias (1, 1 or H, 1 or S, T) in float16 for each row of x, as the op wants it."""
    shape = g.node("Concat", g.constant([1, 1]), g.node("Shape", x, start=0, end=1), g.constant([1]), axis=0)
    return g.narrow(g.node("Expand", g.node("Max", bias, g.constant(_LOWEST)), shape))
