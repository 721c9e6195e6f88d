"""Speech in the ``standard`` dialect: attention from its parts, phases counted in integers instead of float64."""

import numpy as np

from edgekit.exporter.dialects.standard.parts import count_up, rotate
from edgekit.exporter.dialects.steps import SlidingWindow
from edgekit.exporter.graph import GraphWriter

_FLOAT, _INT64 = 1, 7  # onnx's element types
_PARTS = 1 << 28  # of a Hz: every float32 from 1/32 on is a whole number of them
_LAST = np.iinfo(np.int64).max


class StandardSound:
    """See SoundBlocks."""

    def attention(self, g: GraphWriter, q: str, keys: str, values: str, bias: str, *, heads: int, head_dim: int) -> str:
        """Return softmax attention."""
        split = g.node("Reshape", q, g.constant([0, 0, heads, head_dim]))
        query = g.node("Transpose", split, perm=[0, 2, 1, 3])
        return _attend(g, query, keys, values, bias, heads=heads, head_dim=head_dim)

    def sliding_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], at: SlidingWindow, *, heads: int, head_dim: int
    ) -> str:
        """Return softmax attention of rotated rows."""
        q, keys, values = (
            g.node("Transpose", g.node("Reshape", x, g.constant([1, -1, heads, head_dim])), perm=[0, 2, 1, 3])
            for x in rows
        )
        latest = [
            g.node("Slice", table, g.constant([at.past]), g.constant([_LAST]), g.constant([0]))
            for table in (at.cos, at.sin)
        ]
        query, key = rotate(g, q, latest[0], latest[1]), rotate(g, keys, at.cos, at.sin)
        return _attend(g, query, g.narrow(key), g.narrow(values), at.bias, heads=heads, head_dim=head_dim)

    def turns(self, g: GraphWriter, pitch: str, rate: int, frame: int, overtones: int) -> tuple[str, str]:
        """Return exact sums of integers, in parts of a Hz.

        A frame turns by pitch * frame / rate: what is left of a sum of pitches, times an overtone's number, when
        divided by rate / frame is exact in integers, and rounded only at the end.
        """
        assert rate % frame == 0, (rate, frame)
        parts = g.node("Cast", g.node("Mul", pitch, g.constant(float(_PARTS))), to=_INT64)
        numbers = g.constant([*range(1, overtones + 1)])

        def left(values: str, whole: int) -> str:
            rest = g.node("Mod", g.node("Mul", values, numbers), g.constant([whole * _PARTS]))
            return g.node("Mul", g.node("Cast", rest, to=_FLOAT), g.constant(1 / (whole * _PARTS)))

        made = left(_running_sum(g, parts), rate // frame)
        return g.node("Unsqueeze", made, g.constant([1])), left(parts, rate)


def _attend(g: GraphWriter, query: str, keys: str, values: str, bias: str, *, heads: int, head_dim: int) -> str:
    """Return attention (B*S, H*D) of query (B, H, S, D) over keys and values (B, H, T, D).

    query, bias and what is returned are float32, keys and values as they are multiplied.
    """
    scaled = g.narrow(g.node("Mul", query, g.constant(head_dim**-0.5)))
    scores = g.widen(g.node("MatMul", scaled, g.node("Transpose", keys, perm=[0, 1, 3, 2])))
    shares = g.narrow(g.node("Softmax", g.node("Add", scores, bias), axis=-1))
    out = g.widen(g.node("MatMul", shares, values))
    return g.node("Reshape", g.node("Transpose", out, perm=[0, 2, 1, 3]), g.constant([-1, heads * head_dim]))


def _running_sum(g: GraphWriter, values: str) -> str:
    """Return int64 (n, 1): the sum of values (n, 1) up to each; CumSum takes no integers and is a loop."""
    places = count_up(g, g.node("Shape", values, start=0, end=1))
    later = g.node("GreaterOrEqual", g.node("Unsqueeze", places, g.constant([1])), places)
    row = g.node("Transpose", values, perm=[1, 0])
    held = g.node("Mul", row, g.node("Cast", later, to=_INT64))
    return g.node("ReduceSum", held, g.constant([1]), keepdims=1)
