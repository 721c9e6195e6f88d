"""Speech in the ``ort-cpu`` dialect: onnxruntime's fused attention, phases in float64."""

import numpy as np

from edgekit.exporter.dialects.steps import SlidingWindow
from edgekit.exporter.graph import MICROSOFT, GraphWriter

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
