"""The graph vocabulary that families share: linears, experts, norms, caches, attention, the audio encoder, routers.

Activations are (rows, width). What becomes other nodes in another dialect is written by ``dialects``. Shapes in
comments: S new rows, T rows in total, H heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.exporter.dialects import Attention, ExpertBank, Routing, Steps, dialect_of
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import Group

# Outputs of graphs that are observed, by the name of an encoder linear: what goes into it, all of it or some rows; the
# lowest and highest number of all; and mean squares of what it is added to, see ``_add``.
OBSERVED, ROWS, RANGE, SUM = "observed.", "observed.rows.", "observed.range.", "observed.sum."
ROW_STRIDE = 8  # of the rows that are put out: so many say what all do, and a large encoder's fit into memory
MASKED = -1e10  # what the Step-Audio encoder adds to the score of a key it may not see


def linear(g: GraphWriter, w: Weights, x: str, name: str, group: Group, bias: str | None = None) -> str:
    """Return ``x @ weight.T + bias`` for x (rows, in) and the tensor ``name`` (out, in) of a precision group.

    Where the weights observe, what goes into a linear of the encoder is an output of the graph as well.
    """
    width = w.source.shape(name)[1]
    if group == "encoder" and w.observes == "inputs":
        g.output(x, OBSERVED + name, "float32", ("rows", width))
    elif group == "encoder" and w.observes == "rows":
        last = g.constant([np.iinfo(np.int64).max])
        some = g.node("Slice", x, g.constant([0]), last, g.constant([0]), g.constant([ROW_STRIDE]))
        g.output(some, ROWS + name, "float32", ("rows", width))
        ends = [g.node(op, x, g.constant([0, 1]), keepdims=0) for op in ("ReduceMin", "ReduceMax")]
        ends = [g.node("Reshape", end, g.constant([1])) for end in ends]
        g.output(g.node("Concat", *ends, axis=0), RANGE + name, "float32", (2,))
    return dialect_of(g).linear(g, w, x, name, group=group, bias=w.plain(g, bias) if bias else "")


def experts(g: GraphWriter, w: Weights, x: str, routing: Routing, bank: ExpertBank) -> str:
    """Return the weighted sum of expert outputs for x (rows, hidden); work of those not chosen is skipped.

    Plain experts use GELU, gated ones SwiGLU.
    """
    return dialect_of(g).experts(g, w, x, routing, bank)


def layer_norm(g: GraphWriter, w: Weights, x: str, name: str, epsilon: float = 1e-5) -> str:
    """Return LayerNorm over the last axis with the tensors ``name``.weight and .bias."""
    return g.node(
        "LayerNormalization", x, w.plain(g, name + ".weight"), w.plain(g, name + ".bias"), axis=-1, epsilon=epsilon
    )


def rms_norm(g: GraphWriter, w: Weights, x: str, name: str, epsilon: float) -> str:
    """Return RMSNorm over the last axis with the tensor ``name``.weight."""
    return dialect_of(g).rms_norm(g, x, w.plain(g, name + ".weight"), epsilon)


def fixed_shapes(g: GraphWriter) -> bool:
    """Return whether no shape of a graph may depend on a value."""
    return dialect_of(g).fixed_shapes


def steps(g: GraphWriter, x: str, start: str) -> Steps:
    """Return the Steps of a call that appends the rows of x (S, width) after ``start`` rows."""
    return dialect_of(g).steps(g, x, start)


def rows_at(g: GraphWriter, table: str, at: Steps) -> str:
    """Return the rows of ``table`` (positions, width) that belong to a call's new rows."""
    return dialect_of(g).rows_at(g, table, at)


def cached_attention(
    g: GraphWriter,
    q: str,
    k: str,
    v: str,
    layer: int,
    at: Steps,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    capacity: int | str,
    causal: bool,
    rotary: tuple[str, str] | None = None,
    bias: str = "",
) -> str:
    """Return attention of q (S, H*D) over layer ``layer``'s cache after k, v (S, KV*D) were written into it.

    ``causal`` False lets every new row see every other new row as well: chunk-causal attention when called by chunks.
    """
    how = Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, capacity=capacity, causal=causal, rotary=rotary, bias=bias
    )
    return dialect_of(g).cached_attention(g, (q, k, v), layer, at, how)


def cross_attention(g: GraphWriter, q: str, layer: int, *, heads: int, head_dim: int) -> str:
    """Return attention of q (S, H*D) over the utterance's cross-KV of decoder layer ``layer``."""
    sound = [g.input(f"cross.{2 * layer + i}", g.activations, (1, heads, "sound", head_dim)) for i in (0, 1)]
    return dialect_of(g).attention(g, q, *sound, heads=heads, head_dim=head_dim)


def rotary_tables(g: GraphWriter, positions: int, head_dim: int, theta: float, prefix: str = "") -> tuple[str, str]:
    """Return names of cos and sin tables (positions, head_dim / 2). Source: RoPE, half-split layout of Qwen2.

    prefix: of their names, which differ between the graphs of one bundle.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies)
    return g.tensor(f"{prefix}rotary.cos", np.cos(angles).astype(np.float32)), g.tensor(
        f"{prefix}rotary.sin", np.sin(angles).astype(np.float32)
    )


def choose_experts(g: GraphWriter, scores: str, count: str) -> tuple[str, str]:
    """Return the values (S, k) of the ``count`` highest scores (S, E) and their positions (S, k)."""
    values, places = g.nodes("TopK", scores, count, outs=(None, None), axis=-1)
    return values, places


def scatter_mix(g: GraphWriter, scores: str, places: str, values: str) -> str:
    """Return (S, E) with ``values`` at ``places`` and zero elsewhere."""
    zeros = g.node("Expand", g.constant(0.0), g.node("Shape", scores))
    return g.node("ScatterElements", zeros, places, values, axis=1)


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of an audio encoder; ``positions`` is what its cache holds."""

    mel_bins: int
    width: int
    heads: int
    layers: int
    inner: int
    positions: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNames:
    """Tensor names of an encoder's layers; ``layer`` and the parts below it are joined by dots."""

    layer: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    mlp_norm: str
    key_biased: bool = False

    def layer_shapes(self, size: EncoderShape) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor of the layers."""
        width, inner = size.width, size.inner
        biased = (self.query, self.value, self.out, self.attention_norm, self.mlp_norm, self.down)
        found: dict[str, tuple[int, ...]] = {}
        for layer in range(size.layers):
            at = self.layer.format(layer)
            for part in (self.query, self.key, self.value, self.out):
                found[f"{at}.{part}.weight"] = (width, width)
            for part in (*biased, self.key) if self.key_biased else biased:
                found[f"{at}.{part}.bias"] = (width,)
            for part in (self.attention_norm, self.mlp_norm):
                found[f"{at}.{part}.weight"] = (width,)
            found[f"{at}.{self.up}.weight"], found[f"{at}.{self.up}.bias"] = (inner, width), (inner,)
            found[f"{at}.{self.down}.weight"] = (width, inner)
        return found

    def linears(self, size: EncoderShape) -> frozenset[str]:
        """Return the weights that are quantised."""
        parts = (self.query, self.key, self.value, self.out, self.up, self.down)
        return frozenset(f"{self.layer.format(i)}.{part}.weight" for i in range(size.layers) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderNames(LayerNames):
    """Tensor names of a Whisper-type audio encoder."""

    conv1: str
    conv2: str
    positions: str
    final_norm: str

    def shapes(self, size: EncoderShape) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor."""
        width = size.width
        found: dict[str, tuple[int, ...]] = {
            f"{self.conv1}.weight": (width, size.mel_bins, 3),
            f"{self.conv2}.weight": (width, width, 3),
            self.positions: (size.positions, width),
            f"{self.final_norm}.weight": (width,),
        }
        found |= {f"{name}.bias": (width,) for name in (self.conv1, self.conv2, self.final_norm)}
        return found | self.layer_shapes(size)


def audio_encoder(g: GraphWriter, w: Weights, names: EncoderNames, size: EncoderShape, *, pooled: bool) -> None:
    """Build a Whisper-type encoder that takes one chunk of mel frames and its own cache of earlier chunks.

    Called on a whole window with an empty cache it is the published encoder. ``pooled`` averages pairs of positions
    before the last norm and adds the input ``valid``, the number of positions that may be attended.
    """
    mel = g.input("mel", "float32", (size.mel_bins, "mel_frames"))
    start = g.input("start", "int64", (1,))
    x = _conv_stem(g, w, names, g.node("Unsqueeze", mel, g.constant([0])), start)
    at = steps(g, x, start)
    table = w.plain(g, names.positions)
    x = g.node("Add", x, rows_at(g, table, at))
    valid = g.input("valid", "int64", (1,)) if pooled else ""
    bias = _key_mask(g, at, valid, x, size.positions) if pooled else ""
    for layer in range(size.layers):
        x = encoder_layer(g, w, names, size, layer, x, at, bias)
    if pooled:
        x = _pool_pairs(g, x, at, valid)
    g.output(layer_norm(g, w, x, names.final_norm), "frames", "float32", ("frames", size.width))


def _conv_stem(g: GraphWriter, w: Weights, names: EncoderNames, mel: str, start: str) -> str:
    """Return (S, width) from mel (1, bins, 2 + F + 1).

    The first convolution also makes the frame before the chunk, from its two left mel frames. Before the utterance that
    frame is the second convolution's zero padding, not a convolution of silence: hence the mask.
    """
    one = g.node("Gelu", g.node("Conv", mel, w.plain(g, names.conv1 + ".weight"), w.plain(g, names.conv1 + ".bias")))
    inside = g.node("Cast", g.node("Greater", start, g.constant([0])), to=1)
    axis = g.constant([2])
    before = g.node("Slice", one, g.constant([0]), g.constant([1]), axis)
    rest = g.node("Slice", one, g.constant([1]), g.constant([np.iinfo(np.int64).max]), axis)
    one = g.node("Concat", g.node("Mul", before, inside), rest, axis=2)
    two = g.node(
        "Gelu",
        g.node(
            "Conv", one, w.plain(g, names.conv2 + ".weight"), w.plain(g, names.conv2 + ".bias"), strides=[2],
            pads=[0, 1],
        ),
    )  # fmt: skip
    return g.node("Transpose", g.node("Squeeze", two, g.constant([0])), perm=[1, 0])


def _key_mask(g: GraphWriter, at: Steps, valid: str, x: str, capacity: int) -> str:
    if fixed_shapes(g):  # the same for every row, of the whole cache
        places = g.constant(np.arange(capacity, dtype=np.int64).reshape(1, 1, 1, -1))
        return g.node("Where", g.node("Less", places, valid), g.constant(0.0), g.constant(MASKED))
    total = g.node("Squeeze", at.total, g.constant([0]))
    keys = g.node("Range", g.constant(np.array(0)), total, g.constant(np.array(1)))
    row = g.node("Where", g.node("Less", keys, valid), g.constant(0.0), g.constant(MASKED))
    shape = g.node("Concat", g.constant([1, 1]), g.node("Shape", x, start=0, end=1), at.total, axis=0)
    return g.node("Expand", row, shape)


def _pool_pairs(g: GraphWriter, x: str, at: Steps, valid: str) -> str:
    """Average pairs of rows, an odd last row left out.

    Where the utterance ends (``valid`` < total) on 4n + 2 positions, the last pair is padding that would become an
    embedding of its own: it is cut, as the published code cuts the adapter's output to the number of valid frames.
    Where shapes may not depend on values, who runs the graph cuts it (``Grid.kept_frames``).
    """
    axis, two = g.constant([0]), g.constant([2])
    count = g.node("Div", g.node("Shape", x, start=0, end=1), two)
    if not fixed_shapes(g):
        ended = g.node("Less", valid, at.total)
        extra = g.node("Equal", g.node("Mod", at.total, g.constant([4])), two)
        count = g.node("Sub", count, g.node("Cast", g.node("And", ended, extra), to=7))
    end = g.node("Mul", count, two)
    even = g.node("Slice", x, g.constant([0]), end, axis, two)
    odd = g.node("Slice", x, g.constant([1]), end, axis, two)
    return g.node("Mul", g.node("Add", even, odd), g.constant(0.5))


def encoder_layer(
    g: GraphWriter, w: Weights, names: LayerNames, size: EncoderShape, layer: int, x: str, at: Steps, bias: str = ""
) -> str:
    """Return x (S, width) after one layer: every row sees every other of this call and the cache, ``bias`` added."""
    root = names.layer.format(layer)

    def project(value: str, part: str, biased: bool = True) -> str:
        name = f"{root}.{part}"
        return linear(g, w, value, f"{name}.weight", "encoder", f"{name}.bias" if biased else None)

    normed = layer_norm(g, w, x, f"{root}.{names.attention_norm}")
    attended = cached_attention(
        g, project(normed, names.query), project(normed, names.key, names.key_biased), project(normed, names.value),
        layer, at, heads=size.heads, kv_heads=size.heads, head_dim=size.head_dim, capacity=size.positions, causal=False,
        bias=bias,
    )  # fmt: skip
    x = _add(g, w, x, project(attended, names.out), root, (names.query, names.key, names.value, names.out))
    normed = layer_norm(g, w, x, f"{root}.{names.mlp_norm}")
    return _add(g, w, x, project(g.node("Gelu", project(normed, names.up)), names.down), root, (names.up, names.down))


def _add(g: GraphWriter, w: Weights, x: str, branch: str, root: str, parts: Sequence[str]) -> str:
    """Return x + branch, which the last of the linears ``parts`` put out and the others led to.

    Where rows are observed, mean squares of each column are put out, (1 or 2, width): of the sum, and for all parts but
    the last of the branch.
    """
    total = g.node("Add", x, branch)
    if w.observes == "rows":
        whole, own = (
            g.node("ReduceMean", g.node("Mul", one, one), g.constant([0]), keepdims=1) for one in (total, branch)
        )
        both, width = g.node("Concat", whole, own, axis=0), w.source.shape(f"{root}.{parts[-1]}.weight")[0]
        for part in parts:
            last = part == parts[-1]
            g.output(whole if last else both, f"{SUM}{root}.{part}.weight", "float32", (1 if last else 2, width))
    return total
