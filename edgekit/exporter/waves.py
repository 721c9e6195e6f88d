"""The graph vocabulary of speech: causal and transposed convolutions, Snake, attention, phases, with their states.

Called piece by piece, every block gives what it gives on the whole: what it still needs of earlier calls is a carried
state, named after its weights. Sound is (1, C, T), T columns of C channels; attention takes rows (S, width). A call
brings at least one column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.exporter.blocks import MASKED, fixed_shapes, layer_norm
from edgekit.exporter.dialects import SlidingWindow, dialect_of
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights

SMALLEST_BETA = 1e-9  # what Snake's published code adds before it divides
_END = np.iinfo(np.int64).max
_FLOAT = 1  # onnx's element type


def carry(g: GraphWriter, x: str, label: str, shape: Sequence[int], axis: int) -> str:
    """Return x behind the last ``shape[axis]`` columns (or rows) of earlier calls, zeros before the first.

    ``shape``: of the carried state ``label``, x's but for ``axis``.
    """
    past = g.input(f"past.{label}", "float32", shape, "carried")
    joined = g.node("Concat", past, x, axis=axis)
    kept = g.node("Slice", joined, g.constant([-shape[axis]]), g.constant([_END]), g.constant([axis]))
    g.output(kept, f"present.{label}", "float32", shape, "carried")
    return joined


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where sound begins: so many ``columns`` after the first of a stream's first call, at once in every later call.

    fresh: name of int64 (1,), 1 in the first call and 0 later.
    """

    fresh: str
    columns: int = 0

    def silence(self, g: GraphWriter, x: str) -> str:
        """Return x (1, C, T) with zeros before the beginning, where it was not cut there."""
        if not self.columns or not fixed_shapes(g):
            return x

        def make() -> str:
            zero, one = g.constant(np.array(0)), g.constant(np.array(1))
            count = g.node("Squeeze", g.node("Shape", x, start=2, end=3), g.constant([0]))
            first = g.node("Mul", self.fresh, g.constant([self.columns]))
            return g.node("Cast", g.node("GreaterOrEqual", g.node("Range", zero, count, one), first), to=_FLOAT)

        return g.node("Mul", x, g.shared(f"begun.{self.columns}", make))


def causal_conv(
    g: GraphWriter,
    w: Weights,
    x: str,
    name: str,
    *,
    dilation: int = 1,
    groups: int = 1,
    beginning: Beginning | None = None,
) -> str:
    """Return the convolution ``name`` (.weight, .bias) of x (1, C, T), T columns that look at nothing later.

    Nothing before the ``beginning`` is looked at either.
    """
    _, inputs, kernel = w.source.shape(f"{name}.weight")
    if context := (kernel - 1) * dilation:
        x = beginning.silence(g, x) if beginning else x
        x = carry(g, x, name, (1, inputs * groups, context), axis=2)
    return g.node(
        "Conv", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias"), dilations=[dilation], group=groups
    )


def spread(g: GraphWriter, w: Weights, x: str, name: str) -> str:
    """Return the transposed convolution ``name`` of x (1, C, T) whose stride is its kernel k: T * k columns."""
    kernel = w.source.shape(f"{name}.weight")[2]
    return g.node("ConvTranspose", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias"), strides=[kernel])


def held_spread(g: GraphWriter, w: Weights, x: str, name: str, beginning: Beginning) -> tuple[str, Beginning]:
    """Return the transposed convolution ``name`` of kernel 2r and stride r, cut by r columns at both ends.

    Its r columns number b need columns b and b + 1 of x: the last column of x is held until the next call. T columns
    give T * r, but (T - 1) * r in the first call; where shapes may not depend on values, r columns too many, which lie
    before the beginning that is returned.
    """
    inputs, _, kernel = w.source.shape(f"{name}.weight")
    rate = kernel // 2
    x = carry(g, x, name, (1, inputs, 1), axis=2)
    x = g.node(
        "ConvTranspose", x, w.plain(g, f"{name}.weight"), w.plain(g, f"{name}.bias"), strides=[rate],
        pads=[rate, rate],
    )  # fmt: skip
    after = Beginning(beginning.fresh, (beginning.columns + 1) * rate)
    if fixed_shapes(g):
        return x, after
    first = g.node("Mul", beginning.fresh, g.constant([rate]))
    return g.node("Slice", x, first, g.constant([_END]), g.constant([2])), after


def snake(g: GraphWriter, x: str, alpha: str, beta: str) -> str:
    """Return x + sin(alpha x)^2 / beta of x (1, C, T); alpha, beta: values (C, 1). Source: Ziyin et al. 2020."""
    wave = g.node("Sin", g.node("Mul", x, alpha))
    scaled = g.node("Div", g.node("Mul", wave, wave), g.node("Add", beta, g.constant(SMALLEST_BETA)))
    return g.node("Add", x, scaled)


def snake_beta(g: GraphWriter, w: Weights, x: str, name: str) -> str:
    """Return Snake of x (1, C, T) whose alpha and beta are stored as logarithms, ``name``.alpha and .beta (C,)."""
    axis = g.constant([1])
    alpha, beta = (g.node("Exp", g.node("Unsqueeze", w.plain(g, f"{name}.{part}"), axis)) for part in ("alpha", "beta"))
    return snake(g, x, alpha, beta)


def conv_next(g: GraphWriter, w: Weights, x: str, name: str) -> str:
    """Return x (1, C, T) with a causal ConvNeXt block added: depthwise convolution, LayerNorm, GELU between linears."""
    batch = g.constant([0])
    channels = w.source.shape(f"{name}.gamma")[0]
    rows = causal_conv(g, w, x, f"{name}.dwconv.conv", groups=channels)
    rows = g.node("Transpose", g.node("Squeeze", rows, batch), perm=[1, 0])
    rows = layer_norm(g, w, rows, f"{name}.norm", epsilon=1e-6)
    for part in ("pwconv1", "pwconv2"):
        rows = g.node("Gemm", rows, w.plain(g, f"{name}.{part}.weight"), w.plain(g, f"{name}.{part}.bias"), transB=1)
        rows = g.node("Gelu", rows) if part == "pwconv1" else g.node("Mul", rows, w.plain(g, f"{name}.gamma"))
    return g.node("Add", x, g.node("Unsqueeze", g.node("Transpose", rows, perm=[1, 0]), batch))


def sliding_window(g: GraphWriter, x: str, start: str, *, size: int, head_dim: int, theta: float) -> SlidingWindow:
    """Return the SlidingWindow of ``size`` rows for the rows of x (S, width), ``start`` rows after the first.

    Positions are counted from the oldest row that is kept, so a stream may be of any length: rotary attention depends
    on distances alone.
    """
    past = size - 1
    count = g.node("Shape", x, start=0, end=1)
    total = g.node("Add", count, g.constant([past]))
    scalar, one = g.constant([0]), g.constant(np.array(1))
    rows, columns = (
        g.node("Range", g.constant(np.array(0)), g.node("Squeeze", end, scalar), one) for end in (count, total)
    )
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = g.node(
        "Mul",
        g.node("Unsqueeze", g.node("Cast", columns, to=_FLOAT), g.constant([1])),
        g.constant(frequencies.astype(np.float32)),
    )
    ahead = g.node("Sub", columns, g.node("Unsqueeze", rows, g.constant([1])))  # 0: as far back as a row sees
    inside = g.node(
        "And",
        g.node("GreaterOrEqual", ahead, g.constant(np.array(0))),
        g.node("LessOrEqual", ahead, g.constant(np.array(past))),
    )
    begun = g.node("GreaterOrEqual", columns, g.node("Sub", g.constant([past]), start))
    bias = g.node("Where", g.node("And", inside, begun), g.constant(0.0), g.constant(MASKED))
    return SlidingWindow(
        past, g.node("Cos", angles), g.node("Sin", angles), g.node("Unsqueeze", bias, g.constant([0, 1]))
    )


def given_attention(g: GraphWriter, q: str, keys: str, values: str, bias: str, *, heads: int, head_dim: int) -> str:
    """Return attention (B*S, H*D) of B rows of a batch, q (B, S, H*D), over keys and values (B, H, T, D).

    keys and values are as products take them, all else is float32; ``bias`` is (1, 1, S, T).
    """
    return dialect_of(g).sound.attention(g, q, keys, values, bias, heads=heads, head_dim=head_dim)


def phases(g: GraphWriter, pitch: str, rate: int, frame: int, overtones: int) -> tuple[str, str]:
    """Return what a tone of ``pitch`` Hz (frames, 1) and its overtones do in turns, whole turns left out.

    How many were made up to the end of each frame of ``frame`` samples, (frames, 1, overtones), and how many are in a
    sample at ``rate``, (frames, overtones); both float32.
    """
    return dialect_of(g).sound.turns(g, pitch, rate, frame, overtones)


def sliding_attention(
    g: GraphWriter, q: str, k: str, v: str, layer: int, at: SlidingWindow, *, heads: int, head_dim: int
) -> str:
    """Return rotary attention of q (S, H*D) over the window's rows of k and v (S, H*D), those of earlier calls too.

    Keys are carried unrotated: their place in the window changes from call to call.
    """
    width = heads * head_dim
    keys, values = (carry(g, x, f"{kind}.{layer}", (at.past, width), axis=0) for x, kind in ((k, "key"), (v, "value")))
    return dialect_of(g).sound.sliding_attention(g, (q, keys, values), at, heads=heads, head_dim=head_dim)
