"""Speech in the ``ort-cpu`` dialect: onnxruntime's fused attention, phases in float64, cuts by value."""

import numpy as np

from edgekit.bundle.manifest import StateKind
from edgekit.exporter.dialects.steps import Beginning, SlidingWindow, Steps
from edgekit.exporter.graph import MICROSOFT, GraphWriter

_FLOAT, _INT64, _DOUBLE = 1, 7, 11  # onnx's element types
_END = np.iinfo(np.int64).max


class OrtSound:
    """See SoundBlocks."""

    caches: StateKind = "in-place"

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

    def reach(self, g: GraphWriter, at: Steps, layer: int) -> str:  # noqa: ARG002 - as SoundBlocks
        """Return the rows that the cache holds."""
        return at.total

    def distances(self, g: GraphWriter, x: str, at: Steps, keys: str) -> str:  # noqa: ARG002 - as SoundBlocks
        """Return a range by value."""
        axis = g.constant([0])
        count = g.node("Shape", x, start=0, end=1)
        first = g.node("Squeeze", g.node("Sub", at.total, g.constant([1])), axis)
        end = g.node("Squeeze", g.node("Sub", g.node("Neg", count), g.constant([1])), axis)
        return g.node("Cast", g.node("Range", first, end, g.constant(np.array(-1))), to=_FLOAT)

    def cut(self, g: GraphWriter, x: str, fresh: str, count: int) -> str:
        """Return a slice by value."""
        first = g.node("Mul", fresh, g.constant([count]))
        return g.node("Slice", x, first, g.constant([_END]), g.constant([2]))

    def silenced(self, g: GraphWriter, x: str, beginning: Beginning) -> str:  # noqa: ARG002 - as SoundBlocks
        """Return x: what lay before the beginning is cut."""
        return x

    def tell_lead(self, g: GraphWriter, beginning: Beginning) -> None:
        """Write nothing: what lay before the beginning is cut."""

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
