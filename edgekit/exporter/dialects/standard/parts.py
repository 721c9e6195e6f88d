"""Parts of both attention and sound in plain ONNX: counting, and turning by an angle."""

import numpy as np

from edgekit.exporter.graph import GraphWriter


def count_up(g: GraphWriter, count: str) -> str:
    """Return int64 0, 1, ... below ``count`` (1,)."""
    zero, one = g.constant(np.array(0)), g.constant(np.array(1))
    return g.node("Range", zero, g.node("Squeeze", count, g.constant([0])), one)


def rotate(g: GraphWriter, x: str, cos: str, sin: str) -> str:
    """Return x (..., head_dim) turned by angles (..., head_dim / 2); a number's pair is in the other half."""
    first, second = g.nodes("Split", x, outs=(None, None), axis=-1, num_outputs=2)
    return g.node(
        "Concat",
        g.node("Sub", g.node("Mul", first, cos), g.node("Mul", second, sin)),
        g.node("Add", g.node("Mul", second, cos), g.node("Mul", first, sin)),
        axis=-1,
    )
