"""The ``standard`` dialect: plain ONNX and symmetric Q/DQ, for TensorRT 10.3 and later; see docs/bundle-format.md.

No shape depends on a value but the number of chosen experts: new rows go into a cache of fixed size by ScatterND, what
may not be seen is masked, and tables are gathered. Weights are signed: INT8 with a scale for each output channel, INT4
with one for each block. The encoder's activations are INT8 too, with the scales in ``Weights.ranges``; others are
narrowed to ``GraphWriter.activations`` for each product and widened after it. What is allowed here is kept in
``bundle/ops/standard.toml``, which every graph is checked against.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.bundle import CensusRow, Requirements
from edgekit.bundle.dialects import Activations
from edgekit.exporter.dialects.base import LOWEST_ONNXRUNTIME, SoundBlocks
from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.dialects.standard.codes import SIGNED
from edgekit.exporter.dialects.standard.ops import allow_list, check_ops
from edgekit.exporter.dialects.standard.parts import count_up, rotate
from edgekit.exporter.dialects.standard.sound import StandardSound
from edgekit.exporter.dialects.steps import Attention, Routing, Steps
from edgekit.exporter.graph import GraphWriter, Versions
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import Packing
from edgekit.recipe import EncoderActivations, Group

LOWEST_TENSORRT = "10.3"  # of JetPack 6: the version whose ops the graphs keep to; none was executed there
MASKED = -1e9  # instead of the score of a key that may not be seen
_LARGEST = 127


class StandardDialect:
    """See the module docstring."""

    name = "standard"
    versions = Versions({"": allow_list().opset}, allow_list().ir_version)
    int4_versions = Versions({"": allow_list().int4_opset}, allow_list().int4_ir_version)
    fixed_shapes = True
    encoder_activations: EncoderActivations = "static"
    finer_op: str | None = None
    packings: Mapping[str, Packing] = {"DequantizeLinear": SIGNED}
    products: tuple[str, ...] = ("MatMul", "Gemm", "Einsum")
    sound: SoundBlocks = StandardSound()
    head_steps: tuple[int, int] = (1, 2)

    def check(self, graph: Path, activations: Activations) -> None:
        """Refuse what is not in ``standard.toml``."""
        del activations
        check_ops(graph)

    def requires(self, census: Sequence[CensusRow]) -> Requirements:
        """Return TensorRT's version, and onnxruntime's, which runs the same graphs as a twin."""
        versions = self.int4_versions if any(row.dtype == "int4" for row in census) else self.versions
        return Requirements(opset=versions.opsets[""], onnxruntime=LOWEST_ONNXRUNTIME, tensorrt=LOWEST_TENSORRT)

    def rms_norm(self, g: GraphWriter, x: str, weight: str, epsilon: float) -> str:
        """Return RMSNorm from its parts: the op of that name is newer than TensorRT 10.3."""
        square = g.node("ReduceMean", g.node("Mul", x, x), g.constant([-1]), keepdims=1)
        root = g.node("Sqrt", g.node("Add", square, g.constant(epsilon)))
        return g.node("Mul", g.node("Div", x, root), weight)

    def steps(self, g: GraphWriter, x: str, start: str) -> Steps:
        """Return Steps with the position of each new row."""
        count = g.node("Shape", x, start=0, end=1)
        places = g.node("Add", start, count_up(g, count))
        return Steps(start, g.node("Add", start, count), places=places)

    def rows_at(self, g: GraphWriter, table: str, at: Steps) -> str:
        """Return the table's rows, gathered: a slice by value would have a shape that depends on the value."""
        return g.node("Gather", table, at.places, axis=0)

    def cached_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], layer: int, at: Steps, how: Attention
    ) -> str:
        """Return softmax attention over the whole cache, what is not there yet masked."""
        shape = (1, how.kv_heads, how.capacity, how.head_dim)
        where = g.shared(f"cache.places.{how.kv_heads}.{at.places}", lambda: _cache_places(g, at, how.kv_heads))
        held = []
        q, k, v = rows
        if how.rotary:
            q, k = (_turned(g, x, at, how.rotary, how.head_dim) for x in (q, k))
        for kind, new in (("key", k), ("value", v)):
            past = g.input(f"past.{kind}.{layer}", g.activations, shape, "carried")
            name = f"present.{kind}.{layer}"
            g.nodes("ScatterND", past, where, _heads(g, g.narrow(new), how.kv_heads, how.head_dim), outs=(name,))
            g.output(name, name, g.activations, shape, "carried")
            held.append(name)
        seen = g.shared(
            f"cache.seen.{how.capacity}.{how.causal}.{at.places}", lambda: _seen(g, at, held[0], causal=how.causal)
        )
        return _attend(g, q, held[0], held[1], how=how, seen=seen)

    def attention(self, g: GraphWriter, q: str, key: str, value: str, *, heads: int, head_dim: int) -> str:
        """Return softmax attention."""
        how = Attention(heads=heads, kv_heads=heads, head_dim=head_dim, capacity="", causal=False)
        return _attend(g, q, key, value, how=how)

    def linear(self, g: GraphWriter, w: Weights, x: str, name: str, *, group: Group, bias: str) -> str:
        """Return Gemm; of quantised weights dequantised, for an encoder of activations that went through INT8."""
        precision = w.precision[group]
        if precision == "float32":
            weight = w.matrix(g, name)
        else:
            weight = SIGNED.pack(
                g, name, w.source.shape(name), w.blocks(name), precision, group=group, at_most=w.block(group)
            )
        x = _rounded(g, x, w.ranges[name]) if precision == "int8" and name in w.ranges else g.narrow(x)
        if g.activations == "float32":
            return g.node("Gemm", x, weight, bias, transB=1)
        out = g.widen(g.node("Gemm", x, weight, transB=1))
        return g.node("Add", out, bias) if bias else out

    def experts(self, g: GraphWriter, w: Weights, x: str, routing: Routing, bank: ExpertBank) -> str:
        """Return the experts that any row chose, each computed for all rows and masked.

        That is min(experts, rows x chosen) experts: one token expands its own, a long prefill each once.
        """
        bias = bank.store_bias(g, w)
        first, second = expert_matrices(g, w, bank)
        count = g.node(
            "Mul", g.node("Shape", routing.places, start=0, end=1), g.node("Shape", routing.places, start=1, end=2)
        )
        count = g.node("Min", count, g.constant([bank.experts]))
        used = g.node("ReduceMax", routing.mix, g.constant([0]), keepdims=0)
        _, needed = g.nodes("TopK", used, count, outs=(None, None), axis=-1)
        first, second = (g.node("Gather", one, needed, axis=0) for one in (first, second))
        batch, last = g.constant([0]), g.constant([2])
        rows = g.node("Unsqueeze", g.narrow(x), batch)
        hidden = g.widen(g.node("MatMul", rows, g.node("Transpose", first, perm=[0, 2, 1])))
        if bias:
            hidden = g.node("Add", hidden, g.node("Unsqueeze", g.node("Gather", bias, needed, axis=0), g.constant([1])))
        hidden = _swiglu(g, hidden, bank.inner) if bank.gated else g.node("Gelu", hidden)
        share = g.node(
            "Unsqueeze", g.node("Transpose", g.node("Gather", routing.mix, needed, axis=1), perm=[1, 0]), last
        )
        none = g.constant(0.0)  # and not a product with 0: an expert may overflow on rows that did not choose it
        hidden = g.narrow(g.node("Where", g.node("Greater", share, none), g.node("Mul", hidden, share), none))
        out = g.widen(g.node("MatMul", hidden, g.node("Transpose", second, perm=[0, 2, 1])))
        return g.node("ReduceSum", out, batch, keepdims=0)


def expert_matrices(g: GraphWriter, w: Weights, bank: ExpertBank) -> tuple[str, str]:
    """Return both banks as (experts, rows, width), dequantised where they are quantised."""
    precision = w.precision[bank.group]
    if precision == "float32":
        return bank.store_plain(g, w)
    held = []
    for name, rows, width in bank.matrices:
        blocks = ((expert * rows, bank.matrix(w, name, expert)) for expert in range(bank.experts))
        whole = SIGNED.pack(
            g, name, (bank.experts * rows, width), blocks, precision, group=bank.group,
            at_most=w.settings.experts_block,
        )  # fmt: skip
        held.append(g.node("Reshape", whole, g.constant([bank.experts, rows, width])))
    return held[0], held[1]


def _swiglu(g: GraphWriter, hidden: str, inner: int) -> str:
    """Return ``silu(gate) * up`` of hidden (experts, S, 2 * inner), in which gate and up alternate."""
    pairs = g.node("Reshape", hidden, g.constant([0, 0, inner, 2]))
    gate, up = (g.node("Gather", pairs, g.constant(np.array(i)), axis=3) for i in (0, 1))
    return g.node("Mul", g.node("Mul", gate, g.node("Sigmoid", gate)), up)


def _rounded(g: GraphWriter, x: str, largest: float) -> str:
    """Return x after it went through INT8, one node pair for all linears that read it."""
    size = np.dtype(g.activations).type(largest / _LARGEST)
    zero = g.constant(np.array(0, np.int8))
    step, back = g.constant(np.array(size, np.float32)), g.constant(np.array(size))

    def make() -> str:
        return g.node("DequantizeLinear", g.node("QuantizeLinear", x, step, zero), back, zero)

    return g.shared(f"rounded.{x}.{step}", make)


def _heads(g: GraphWriter, rows: str, heads: int, head_dim: int) -> str:
    """Return (1, heads, S, head_dim) of rows (S, heads * head_dim)."""
    split = g.node("Reshape", rows, g.constant([1, -1, heads, head_dim]))
    return g.node("Transpose", split, perm=[0, 2, 1, 3])


def _cache_places(g: GraphWriter, at: Steps, heads: int) -> str:
    """Return int64 (1, heads, S, 3): batch, head and position of each new row."""
    shape = g.node("Concat", g.constant([1, heads]), g.node("Shape", at.places), g.constant([1]), axis=0)
    head = g.constant(np.arange(heads, dtype=np.int64).reshape(1, heads, 1, 1))
    place = g.node("Reshape", at.places, g.constant([1, 1, -1, 1]))
    batch = g.constant(np.zeros((1, 1, 1, 1), np.int64))
    return g.node("Concat", *(g.node("Expand", one, shape) for one in (batch, head, place)), axis=3)


def _seen(g: GraphWriter, at: Steps, cache: str, *, causal: bool) -> str:
    """Return bool (S, T), or (1, T) if not causal: the keys that each new row may attend to."""
    keys = count_up(g, g.node("Shape", cache, start=2, end=3))
    bound = g.node("Unsqueeze", at.places, g.constant([1])) if causal else g.node("Sub", at.total, g.constant([1]))
    return g.node("LessOrEqual", keys, bound)


def _turned(g: GraphWriter, rows: str, at: Steps, tables: tuple[str, str], head_dim: int) -> str:
    """Return rows (S, heads * head_dim), each head turned by its row's position."""

    def taken(table: str) -> str:
        rows = g.shared(f"{table}.{at.places}", lambda: g.node("Gather", table, at.places, axis=0))
        return g.shared(f"{table}.{at.places}.heads", lambda: g.node("Unsqueeze", rows, g.constant([1])))

    cos, sin = (taken(table) for table in tables)
    split = g.node("Reshape", rows, g.constant([0, -1, head_dim]))
    return g.node("Reshape", rotate(g, split, cos, sin), g.constant([0, -1]))


def _attend(g: GraphWriter, q: str, key: str, value: str, *, how: Attention, seen: str = "") -> str:
    """Return attention of q (S, H*D) over key and value (1, KV, T, D), ``how.bias`` added and masked by ``seen``.

    Key and value come as they are multiplied, all else in float32. Query heads that share a key head are multiplied as
    rows of one, so that no key is copied.
    """
    heads, head_dim = how.heads, how.head_dim
    query = _heads(g, g.narrow(g.node("Mul", q, g.constant(head_dim**-0.5))), heads, head_dim)
    apart, joined = g.constant([1, heads, -1, 0]), g.constant([1, how.kv_heads, -1, 0])
    grouped = heads != how.kv_heads
    query = g.node("Reshape", query, joined) if grouped else query
    scores = g.widen(g.node("MatMul", query, g.node("Transpose", key, perm=[0, 1, 3, 2])))
    scores = g.node("Reshape", scores, apart) if grouped else scores
    if how.bias:
        scores = g.node("Add", scores, how.bias)
    if seen:
        scores = g.node("Where", seen, scores, g.constant(MASKED))
    shares = g.narrow(g.node("Softmax", scores, axis=-1))
    shares = g.node("Reshape", shares, joined) if grouped else shares
    out = g.node("MatMul", shares, value)
    out = g.node("Reshape", out, apart) if grouped else out
    out = g.node("Reshape", g.node("Transpose", out, perm=[0, 2, 1, 3]), g.constant([-1, heads * head_dim]))
    return g.widen(out)
