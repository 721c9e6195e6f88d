"""The diffusion transformer that flow matching asks for a velocity: one step of it, with explicit caches.

Blocks of attention, convolution and feed-forward, each shifted, scaled and gated by the time of the step. Two rows of
everything: one that is told what to say and by whom, one that is told nothing. Source: stepfun-ai/Step-Audio2,
cosyvoice2/flow/decoder_dit.py (forward_chunk); Peebles and Xie 2022 (arXiv:2212.09748); guidance: Ho and Salimans 2022
(arXiv:2207.12598).
"""

import math
from dataclasses import dataclass

import numpy as np

from edgekit.bundle.manifest import StateKind
from edgekit.exporter.blocks import fixed_shapes, layer_norm, linear
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.waves import given_attention
from edgekit.exporter.weights import Weights

ROWS = 2  # guided and unguided
BACK = 2  # frames that each convolution sees to the left
PARTS = 4  # what a frame is made of: noise, conformer, speaker, prompt
TIME_SCALE = 1000.0
NORM_EPSILON = 1e-6
LEAST_NORM = 1e-12  # torch's normalize divides by no less
_EVER = 2**62


@dataclass(frozen=True, slots=True)
class DitShape:
    """Sizes of the transformer; ``time_width`` of the sinusoids of the step's time."""

    mel_bins: int
    speaker: int
    width: int
    layers: int
    heads: int
    head_dim: int
    inner: int
    time_width: int


def dit_shapes(shape: DitShape, root: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor below ``root``."""
    width, attended = shape.width, shape.heads * shape.head_dim
    linears = {
        "t_embedder.mlp.0": (width, shape.time_width),
        "t_embedder.mlp.2": (width, width),
        "in_proj": (width, PARTS * shape.mel_bins),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (shape.mel_bins, width),
    }
    found: dict[str, tuple[int, ...]] = {}
    for i in range(shape.layers):
        at = f"blocks.{i}"
        linears |= {f"{at}.attn.to_{part}": (attended, width) for part in "qkv"}
        linears |= {
            f"{at}.attn.proj": (width, attended),
            f"{at}.mlp.fc1": (shape.inner, width),
            f"{at}.mlp.fc2": (width, shape.inner),
            f"{at}.adaLN_modulation.1": (9 * width, width),
        }
        for conv in ("conv.block.1", "conv.block.6"):
            found[f"{root}{at}.{conv}.weight"] = (width, width, BACK + 1)
            found[f"{root}{at}.{conv}.bias"] = (width,)
        for norm, size in (("attn.q_norm", shape.head_dim), ("attn.k_norm", shape.head_dim), ("conv.block.3", width)):
            found |= {f"{root}{at}.{norm}.{part}": (size,) for part in ("weight", "bias")}
    for name, (out, source) in linears.items():
        found[f"{root}{name}.weight"], found[f"{root}{name}.bias"] = (out, source), (out,)
    return found


def dit_linears(shape: DitShape, root: str) -> frozenset[str]:
    """Return the weights that are quantised: every linear of the blocks."""
    parts = [f"attn.{part}" for part in ("to_q", "to_k", "to_v", "proj")] + ["mlp.fc1", "mlp.fc2", "adaLN_modulation.1"]
    return frozenset(f"{root}blocks.{i}.{part}.weight" for i in range(shape.layers) for part in parts)


def build_dit(g: GraphWriter, w: Weights, shape: DitShape, root: str, speaker_layer: str) -> None:
    """Build one step: the velocity of frames x (n, bins) at time ``t``, guided away from the unguided one.

    Inputs beside them: ``mu``, ``cond`` (n, bins); ``speaker`` (1, width of the speaker model); ``t``, ``guidance``
    (1,); ``left``, what the convolutions see before x, handed back as ``left_next``, zeros at first. Keys and values
    lie in slots, since those kept are no contiguous past: ``slots`` (n,) says where x goes, ``mask`` (capacity,) is 0
    for each slot that may be attended and far below for the others.
    """
    bins = shape.mel_bins
    x, mu, cond = (g.input(name, "float32", ("frames", bins)) for name in ("x", "mu", "cond"))
    speaker = g.input("speaker", "float32", (1, shape.speaker))
    time = _time(g, w, shape, g.input("t", "float32", (1,)), f"{root}t_embedder.mlp")
    guidance = g.input("guidance", "float32", (1,))
    slots = g.input("slots", "int64", ("frames",))
    mask = g.input("mask", "float32", ("capacity",))
    kept = (shape.layers, ROWS, 2 * shape.width, BACK)
    left = g.input("left", "float32", kept)

    count = g.node("Shape", x, start=0, end=1)
    voiced = g.node("Expand", _speaker(g, w, speaker, speaker_layer), g.node("Shape", x))
    nothing = g.node("ConstantOfShape", g.node("Concat", count, g.constant([(PARTS - 1) * bins]), axis=0))
    rows = [g.node("Concat", *parts, axis=1) for parts in ((x, mu, voiced, cond), (x, nothing))]
    hidden = _float_linear(g, w, g.node("Concat", *rows, axis=0), f"{root}in_proj")

    seen = _seen(g, shape, slots, mask, count)
    lefts = []
    for layer in range(shape.layers):
        before = g.node("Gather", left, g.constant(np.array(layer)), axis=0)
        hidden, after = _block(g, w, shape, hidden, layer, f"{root}blocks.{layer}", time, before, seen)
        lefts.append(g.node("Unsqueeze", after, g.constant([0])))
    g.output(g.node("Concat", *lefts, axis=0), "left_next", "float32", kept)

    shift, scale = _vectors(g, _float_linear(g, w, time, f"{root}final_layer.adaLN_modulation.1"), 2)
    out = _float_linear(g, w, _modulated(g, hidden, shift, scale), f"{root}final_layer.linear")
    guided, unguided = g.nodes("Split", out, outs=(None, None), axis=0, num_outputs=2)
    away = g.node("Mul", guidance, g.node("Sub", guided, unguided))
    g.output(g.node("Add", guided, away), "velocity", "float32", ("frames", bins))


@dataclass(frozen=True, slots=True)
class _Seen:
    """Names of the places of the new frames in a cache, (2, H, n, 3) indices, and of the mask (1, 1, n, capacity)."""

    places: str
    mask: str


def _seen(g: GraphWriter, shape: DitShape, slots: str, mask: str, count: str) -> _Seen:
    heads = np.stack(np.meshgrid(np.arange(ROWS), np.arange(shape.heads), indexing="ij"), axis=-1)[:, :, None]
    several = [g.node("Concat", g.constant([ROWS, shape.heads]), count, g.constant([size]), axis=0) for size in (2, 1)]
    slots = g.node("Reshape", slots, g.constant([1, 1, -1, 1]))
    places = (
        g.node("Expand", x, size) for x, size in zip((g.tensor("const.heads", heads), slots), several, strict=True)
    )
    every = g.node("Concat", g.constant([1, 1]), count, g.constant([1]), axis=0)
    return _Seen(g.node("Concat", *places, axis=3), g.node("Expand", mask, every))


def _float_linear(g: GraphWriter, w: Weights, x: str, name: str) -> str:
    return g.node("Gemm", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias"), transB=1)


def _speaker(g: GraphWriter, w: Weights, speaker: str, name: str) -> str:
    norm = g.node("ReduceL2", speaker, g.constant([1]), keepdims=1)
    unit = g.node("Div", speaker, g.node("Max", norm, g.constant(LEAST_NORM)))
    return _float_linear(g, w, unit, name)


def _silu(g: GraphWriter, x: str) -> str:
    return g.node("Mul", x, g.node("Sigmoid", x))


def _time(g: GraphWriter, w: Weights, shape: DitShape, t: str, root: str) -> str:
    """Return what every block makes its modulation of, (1, width), from the time (1,)."""
    half = shape.time_width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10_000.0) / half))
    angles = g.node("Mul", g.node("Mul", t, g.constant(TIME_SCALE)), g.tensor("const.rates", rates[None]))
    x = g.node("Concat", g.node("Cos", angles), g.node("Sin", angles), axis=1)
    return _silu(g, _float_linear(g, w, _silu(g, _float_linear(g, w, x, f"{root}.0")), f"{root}.2"))


def _vectors(g: GraphWriter, row: str, count: int) -> tuple[str, ...]:
    """Return a row (1, count * width) as ``count`` vectors (width,), to shift, scale and gate by."""
    return g.nodes("Split", g.node("Squeeze", row, g.constant([0])), outs=(None,) * count, axis=0, num_outputs=count)


def _modulated(g: GraphWriter, x: str, shift: str, scale: str) -> str:
    """Return norm(x) * (1 + scale) + shift, which is a norm with weights of its own."""
    weight = g.node("Add", scale, g.constant(1.0))
    return g.node("LayerNormalization", x, weight, shift, axis=-1, epsilon=NORM_EPSILON)


def _block(
    g: GraphWriter, w: Weights, shape: DitShape, x: str, layer: int, name: str, time: str, left: str, seen: _Seen
) -> tuple[str, str]:
    """Return x after one block, and what its convolutions see before the next call (2, 2 * width, BACK)."""

    def project(value: str, at: str) -> str:
        return linear(g, w, value, f"{name}.{at}.weight", "decoder", f"{name}.{at}.bias")

    # Stored in the order attention, feed-forward, convolution; applied in another.
    vectors = _vectors(g, project(time, "adaLN_modulation.1"), 9)
    shifts, scales, gates = vectors[0::3], vectors[1::3], vectors[2::3]

    def modulated(value: str, index: int) -> str:
        return _modulated(g, value, shifts[index], scales[index])

    attended = project(_attention(g, w, shape, modulated(x, 0), layer, name, seen), "attn.proj")
    x = g.node("Add", x, g.node("Mul", gates[0], attended))
    convolved, left = _convolutions(g, w, shape, modulated(x, 2), left, f"{name}.conv.block")
    x = g.node("Add", x, g.node("Mul", gates[2], convolved))
    wide = g.node("Gelu", project(modulated(x, 1), "mlp.fc1"), approximate="tanh")
    return g.node("Add", x, g.node("Mul", gates[1], project(wide, "mlp.fc2"))), left


def _attention(g: GraphWriter, w: Weights, shape: DitShape, x: str, layer: int, name: str, seen: _Seen) -> str:
    """Return attention (2n, H*D) of x (2n, width) over every slot that the mask leaves, its own frames included."""
    heads = g.constant([ROWS, -1, shape.heads, shape.head_dim])
    flat = g.constant([ROWS, -1, shape.heads * shape.head_dim])
    q, k, v = (
        g.node("Reshape", linear(g, w, x, f"{name}.attn.to_{p}.weight", "decoder", f"{name}.attn.to_{p}.bias"), heads)
        for p in "qkv"
    )
    q = g.node("Reshape", layer_norm(g, w, q, f"{name}.attn.q_norm"), flat)
    k = layer_norm(g, w, k, f"{name}.attn.k_norm")
    keys, values = (_keep(g, w, shape, new, f"{kind}.{layer}", seen) for kind, new in (("key", k), ("value", v)))
    return given_attention(g, q, keys, values, seen.mask, heads=shape.heads, head_dim=shape.head_dim)


def _keep(g: GraphWriter, w: Weights, shape: DitShape, new: str, name: str, seen: _Seen) -> str:
    """Write new rows (2, n, H, D) into their slots and return all slots (2, H, capacity, D) as they are multiplied.

    Quantised weights are further off than half precision, which halves the largest memory of this family.
    """
    half = w.precision["decoder"] != "float32" or g.activations == "float16"
    size = (ROWS, shape.heads, "capacity", shape.head_dim)
    dtype = "float16" if half else "float32"
    kind: StateKind = "carried" if fixed_shapes(g) else "in-place"
    past = g.input(f"past.{name}", dtype, size, kind)
    new = g.node("Transpose", new, perm=[0, 2, 1, 3])
    new = g.node("Cast", new, to=10) if half else new
    present = g.node("ScatterND", past, seen.places, new, out=f"present.{name}")
    g.output(present, present, dtype, size, kind)
    return present if dtype == g.activations else g.node("Cast", present, to=1)


def _convolutions(g: GraphWriter, w: Weights, shape: DitShape, x: str, left: str, root: str) -> tuple[str, str]:
    """Return two causal convolutions of x (2n, width) with a norm between them, and what they see next time."""
    rows, flat = g.constant([ROWS, -1, shape.width]), g.constant([-1, shape.width])
    before = g.nodes("Split", left, outs=(None, None), axis=1, num_outputs=2)
    x = g.node("Transpose", g.node("Reshape", x, rows), perm=[0, 2, 1])
    x, first = _causal(g, w, x, before[0], f"{root}.1")
    x = layer_norm(g, w, g.node("Transpose", x, perm=[0, 2, 1]), f"{root}.3")
    x = g.node("Transpose", _mish(g, x), perm=[0, 2, 1])
    x, second = _causal(g, w, x, before[1], f"{root}.6")
    x = g.node("Reshape", g.node("Transpose", x, perm=[0, 2, 1]), flat)
    return x, g.node("Concat", first, second, axis=1)


def _mish(g: GraphWriter, x: str) -> str:
    """Return x * tanh(log(1 + e^x)), written with s = 1 / (1 + e^x) as x * (1 - s^2) / (1 + s^2).

    The op itself is computed by onnxruntime in parts that take ten times as long.
    """
    s = g.node("Sigmoid", g.node("Neg", x))
    square, one = g.node("Mul", s, s), g.constant(1.0)
    return g.node("Mul", x, g.node("Div", g.node("Sub", one, square), g.node("Add", one, square)))


def _causal(g: GraphWriter, w: Weights, x: str, left: str, name: str) -> tuple[str, str]:
    """Return the convolution of x (2, width, n) after what is to its left, and the new left."""
    x = g.node("Concat", left, x, axis=2)
    kept = g.node("Slice", x, g.constant([-BACK]), g.constant([_EVER]), g.constant([2]))
    return g.node("Conv", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias")), kept
