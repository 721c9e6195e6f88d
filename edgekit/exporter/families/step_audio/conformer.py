"""The conformer that turns speech codes into what flow matching starts from, in its streaming form.

Attention with relative positions, two stages with an upsampling between them, and convolutions that look ahead or back.
Everything it remembers is explicit: keys and values in place, the rows left of its convolutions handed in and out.
Source: stepfun-ai/Step-Audio2, cosyvoice2/transformer/upsample_encoder_v2.py (forward_chunk); relative positions:
Dai et al. 2019, Transformer-XL (arXiv:1901.02860), appendix B, in ESPnet's form.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.exporter.blocks import cached_attention, fixed_shapes, layer_norm, linear, steps
from edgekit.exporter.dialects import Steps
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights

STRIDE = 2  # mel frames for one code
LEAKY_SLOPE = 0.01
BACK = 2  # rows that the second convolution of the look-ahead sees to the left
LEFT = BACK + 2 * STRIDE  # rows kept for the convolutions: those, then what the upsampling sees to its left
NORM_EPSILON = 1e-12
_EVER = 2**62


@dataclass(frozen=True, slots=True)
class ConformerShape:
    """Sizes of the conformer; ``layers`` before and after the upsampling."""

    codes: int
    width: int
    heads: int
    inner: int
    layers: tuple[int, int]
    lookahead: int
    key_bias: bool

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def layer_names(shape: ConformerShape, root: str) -> list[str]:
    """Return the name of every layer, in the order of their caches."""
    return [f"{root}encoders.{i}" for i in range(shape.layers[0])] + [
        f"{root}up_encoders.{i}" for i in range(shape.layers[1])
    ]


def conformer_shapes(shape: ConformerShape, root: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor below ``root``."""
    width, inner = shape.width, shape.inner
    found: dict[str, tuple[int, ...]] = {}
    for embed in ("embed", "up_embed"):
        found[f"{root}{embed}.out.0.weight"] = (width, width)
        found |= {f"{root}{embed}.out.{part}": (width,) for part in ("0.bias", "1.weight", "1.bias")}
    for conv, kernel in (
        ("pre_lookahead_layer.conv1", shape.lookahead + 1),
        ("pre_lookahead_layer.conv2", BACK + 1),
        ("up_layer.conv", 2 * STRIDE + 1),
    ):
        found[f"{root}{conv}.weight"], found[f"{root}{conv}.bias"] = (width, width, kernel), (width,)
    found |= {f"{root}after_norm.{part}": (width,) for part in ("weight", "bias")}
    for at in layer_names(shape, root):
        for part in ("linear_q", "linear_k", "linear_v", "linear_out"):
            found[f"{at}.self_attn.{part}.weight"] = (width, width)
            if part != "linear_k" or shape.key_bias:
                found[f"{at}.self_attn.{part}.bias"] = (width,)
        found[f"{at}.self_attn.linear_pos.weight"] = (width, width)
        found |= {f"{at}.self_attn.pos_bias_{part}": (shape.heads, shape.head_dim) for part in "uv"}
        found[f"{at}.feed_forward.w_1.weight"], found[f"{at}.feed_forward.w_1.bias"] = (inner, width), (inner,)
        found[f"{at}.feed_forward.w_2.weight"], found[f"{at}.feed_forward.w_2.bias"] = (width, inner), (width,)
        found |= {f"{at}.{norm}.{part}": (width,) for norm in ("norm_mha", "norm_ff") for part in ("weight", "bias")}
    return found


def conformer_linears(shape: ConformerShape, root: str) -> frozenset[str]:
    """Return the weights that are quantised: every linear of the layers."""
    parts = [f"self_attn.linear_{part}" for part in ("q", "k", "v", "out", "pos")] + [
        "feed_forward.w_1", "feed_forward.w_2",
    ]  # fmt: skip
    return frozenset(f"{at}.{part}.weight" for at in layer_names(shape, root) for part in parts)


def build_conformer(g: GraphWriter, w: Weights, shape: ConformerShape, root: str, table: str) -> str:
    """Build the conformer from graph inputs and return its rows (STRIDE * m, width) before the last projection.

    Inputs: ``codes`` (n,); ``start`` (1,), codes in the cache; ``pad`` (1,), rows of zeros that stand for codes after
    the last one; ``left`` (LEFT, width), handed back as ``left_next``, zeros at first. m is n + pad - lookahead: those
    codes are only looked at, and given again with the next call. Where no shape may depend on a value there is no
    ``pad``: a code below 0 stands for a row of zeros.
    """
    codes = g.input("codes", "int64", ("codes",))
    start = g.input("start", "int64", (1,))
    pad = "" if fixed_shapes(g) else g.input("pad", "int64", (1,))
    left = g.input("left", "float32", (LEFT, shape.width))
    axis, far = g.constant([0]), g.constant([_EVER])
    if pad:
        x = _embed(g, w, shape, g.node("Gather", w.plain(g, table), codes, axis=0), f"{root}embed.out")
        zeros = g.node("ConstantOfShape", g.node("Concat", pad, g.constant([shape.width]), axis=0))
        x = g.node("Concat", x, zeros, axis=0)
    else:
        known = g.node("GreaterOrEqual", g.node("Unsqueeze", codes, g.constant([1])), axis)
        rows = g.node("Gather", w.plain(g, table), g.node("Max", codes, axis), axis=0)
        x = g.node("Mul", _embed(g, w, shape, rows, f"{root}embed.out"), g.node("Cast", known, to=1))
    before = g.node("Slice", left, g.constant([0]), g.constant([BACK]), axis)
    x, before = _look_ahead(g, w, x, before, f"{root}pre_lookahead_layer")
    names = layer_names(shape, root)
    rates = g.tensor("const.rates", _rates(shape.width))
    stage = _stage(g, shape, x, start, rates, 0, "codes_kept")
    for layer, name in enumerate(names[: shape.layers[0]]):
        x = _layer(g, w, shape, x, layer, name, stage)
    above = g.node("Slice", left, g.constant([BACK]), far, axis)
    x, above = _upsample(g, w, shape, x, above, f"{root}up_layer.conv")
    x = _embed(g, w, shape, x, f"{root}up_embed.out")
    stage = _stage(g, shape, x, g.node("Mul", start, g.constant([STRIDE])), rates, shape.layers[0], "frames_kept")
    for layer, name in enumerate(names[shape.layers[0] :], shape.layers[0]):
        x = _layer(g, w, shape, x, layer, name, stage)
    g.output(g.node("Concat", before, above, axis=0), "left_next", "float32", (LEFT, shape.width))
    return layer_norm(g, w, x, f"{root}after_norm")


def _embed(g: GraphWriter, w: Weights, shape: ConformerShape, x: str, root: str) -> str:
    name = f"{root}.0"
    x = g.node("Gemm", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias"), transB=1)
    return g.node("Mul", layer_norm(g, w, x, f"{root}.1"), g.constant(shape.width**0.5))


def _convolve(g: GraphWriter, w: Weights, x: str, name: str) -> str:
    """Return the convolution (n - kernel + 1, width) of rows (n, width), nothing added at the ends."""
    batch = g.constant([0])
    x = g.node("Unsqueeze", g.node("Transpose", x, perm=[1, 0]), batch)
    x = g.node("Conv", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias"))
    return g.node("Transpose", g.node("Squeeze", x, batch), perm=[1, 0])


def _last(g: GraphWriter, x: str, count: int) -> str:
    return g.node("Slice", x, g.constant([-count]), g.constant([_EVER]), g.constant([0]))


def _look_ahead(g: GraphWriter, w: Weights, x: str, before: str, root: str) -> tuple[str, str]:
    """Return the rows of x that have all their look-ahead, with what is near them added, and the rows kept."""
    near = g.node("LeakyRelu", _convolve(g, w, x, f"{root}.conv1"), alpha=LEAKY_SLOPE)
    known = g.node("Slice", x, g.constant([0]), g.node("Shape", near, start=0, end=1), g.constant([0]))
    near = g.node("Concat", before, near, axis=0)
    return g.node("Add", _convolve(g, w, near, f"{root}.conv2"), known), _last(g, near, BACK)


def _upsample(g: GraphWriter, w: Weights, shape: ConformerShape, x: str, above: str, name: str) -> tuple[str, str]:
    """Return every row of x STRIDE times, convolved with those to its left, and the rows kept."""
    middle = g.node("Unsqueeze", x, g.constant([1]))
    x = g.node("Reshape", g.node("Concat", *[middle] * STRIDE, axis=1), g.constant([-1, shape.width]))
    x = g.node("Concat", above, x, axis=0)
    return _convolve(g, w, x, name), _last(g, x, 2 * STRIDE)


def _rates(width: int) -> NDArray[np.float32]:
    """Return how fast each pair of numbers turns with the distance, in radians."""
    rates: NDArray[np.float32] = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-math.log(1e4) / width))
    return rates


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where the layers before the upsampling, or those behind it, stand in their caches of ``room`` positions.

    keys: int64 (1,), how many are scored. places: sinusoids (T + S, width) of their distances, T - 1 down to -S where
    T are held.
    """

    at: Steps
    keys: str
    places: str
    room: str


def _distances(g: GraphWriter, x: str, at: Steps, keys: str) -> str:
    """Return float32 (T + S,): how far the last row of x stands behind the first key, and one less each time."""
    axis, one = g.constant([0]), g.constant([1])
    count = g.node("Shape", x, start=0, end=1)
    if fixed_shapes(g):
        total = g.node("Squeeze", g.node("Add", keys, count), axis)
        places = g.node("Range", g.constant(np.array(0)), total, g.constant(np.array(1)))
        return g.node("Cast", g.node("Sub", g.node("Sub", at.total, one), places), to=1)
    first = g.node("Squeeze", g.node("Sub", at.total, one), axis)
    end = g.node("Squeeze", g.node("Sub", g.node("Neg", count), one), axis)
    return g.node("Cast", g.node("Range", first, end, g.constant(np.array(-1))), to=1)


def _stage(g: GraphWriter, shape: ConformerShape, x: str, start: str, rates: str, layer: int, room: str) -> _Stage:
    at = steps(g, x, start)
    keys = g.node("Shape", f"past.key.{layer}", start=2, end=3) if fixed_shapes(g) else at.total
    distances = _distances(g, x, at, keys)
    angles = g.node("Mul", g.node("Unsqueeze", distances, g.constant([1])), rates)
    pairs = [g.node("Unsqueeze", g.node(op, angles), g.constant([2])) for op in ("Sin", "Cos")]
    places = g.node("Reshape", g.node("Concat", *pairs, axis=2), g.constant([-1, shape.width]))
    return _Stage(at, keys, places, room)


def _layer(g: GraphWriter, w: Weights, shape: ConformerShape, x: str, layer: int, name: str, stage: _Stage) -> str:
    def project(value: str, part: str, biased: bool = True) -> str:
        return linear(g, w, value, f"{name}.{part}.weight", "decoder", f"{name}.{part}.bias" if biased else None)

    def biased_query(kind: str) -> str:
        bias = w.plain(g, f"{name}.self_attn.pos_bias_{kind}")
        return g.node("Add", query, g.node("Reshape", bias, g.constant([shape.width])))

    normed = layer_norm(g, w, x, f"{name}.norm_mha", NORM_EPSILON)
    query = project(normed, "self_attn.linear_q")
    near = _position_scores(
        g, shape, biased_query("v"), project(stage.places, "self_attn.linear_pos", biased=False), stage.keys
    )
    attended = cached_attention(
        g, biased_query("u"), project(normed, "self_attn.linear_k", shape.key_bias),
        project(normed, "self_attn.linear_v"), layer, stage.at, heads=shape.heads, kv_heads=shape.heads,
        head_dim=shape.head_dim, capacity=stage.room, causal=False, bias=near,
    )  # fmt: skip
    x = g.node("Add", x, project(attended, "self_attn.linear_out"))
    wide = project(layer_norm(g, w, x, f"{name}.norm_ff", NORM_EPSILON), "feed_forward.w_1")
    return g.node("Add", x, project(g.node("Mul", wide, g.node("Sigmoid", wide)), "feed_forward.w_2"))


def _position_scores(g: GraphWriter, shape: ConformerShape, query: str, places: str, keys: str) -> str:
    """Return (1, H, S, T): scores of query (S, H*D) with the distance of each key, from places (T + S, H*D).

    Row i wants columns S - 1 - i to S - 1 - i + T of the scores with all distances: seen as rows one number shorter
    and begun at number S - 1, they stand in columns 0 to T.
    """
    split = g.constant([-1, shape.heads, shape.head_dim])
    rows = g.node("Transpose", g.node("Reshape", query, split), perm=[1, 0, 2])
    columns = g.node("Transpose", g.node("Reshape", places, split), perm=[1, 2, 0])
    scores = g.node("Mul", g.node("MatMul", rows, columns), g.constant(shape.head_dim**-0.5))
    one, axis = g.constant([1]), g.constant([1])
    count = g.node("Shape", query, start=0, end=1)
    width = g.node("Sub", g.node("Shape", places, start=0, end=1), one)
    begin = g.node("Sub", count, one)
    flat = g.node("Reshape", scores, g.constant([shape.heads, -1]))
    flat = g.node("Slice", flat, begin, g.node("Add", begin, g.node("Mul", count, width)), axis)
    shifted = g.node("Reshape", flat, g.node("Concat", g.constant([1, shape.heads]), count, width, axis=0))
    return g.node("Slice", shifted, g.constant([0]), keys, g.constant([3]))
