"""Dialects: how the blocks that families share become nodes, for one class of backend each.

``ort-cpu`` and ``ort-cuda`` use onnxruntime's own ops; ``standard`` is plain ONNX with symmetric Q/DQ, for TensorRT. A
family calls ``blocks`` and ``weights`` and never sees which one writes its graph.
"""

from typing import Protocol

from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.dialects.ort_cuda.dialect import OrtCudaDialect
from edgekit.exporter.dialects.standard.dialect import StandardDialect
from edgekit.exporter.dialects.steps import Attention, Routing, Steps
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import Group

__all__ = ["Attention", "DialectBlocks", "ExpertBank", "Routing", "Steps", "blocks_of"]


class DialectBlocks(Protocol):
    """The blocks that differ between dialects; names and shapes as in ``blocks``.

    ``fixed_shapes``: no shape may depend on a value, and every cache has its full length.
    """

    fixed_shapes: bool

    def rms_norm(self, g: GraphWriter, x: str, weight: str, epsilon: float) -> str:
        """Return RMSNorm of x over its last axis, times ``weight``."""
        ...

    def steps(self, g: GraphWriter, x: str, start: str) -> Steps:
        """Return the Steps of a call that appends the rows of x (S, width) after ``start`` rows."""
        ...

    def rows_at(self, g: GraphWriter, table: str, at: Steps) -> str:
        """Return the rows of ``table`` that belong to the positions of a call."""
        ...

    def cached_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], layer: int, at: Steps, how: Attention
    ) -> str:
        """Return attention of q (S, H*D) over a layer's cache after k, v (S, KV*D) were written into it.

        rows: q, k and v.
        """
        ...

    def attention(self, g: GraphWriter, q: str, key: str, value: str, *, heads: int, head_dim: int) -> str:
        """Return attention of q (S, H*D) over all of key and value (1, H, T, D)."""
        ...

    def linear(self, g: GraphWriter, w: Weights, x: str, name: str, *, group: Group, bias: str) -> str:
        """Return ``x @ weight.T + bias`` for x (rows, in) and the tensor ``name`` (out, in); ``bias`` may be empty."""
        ...

    def experts(self, g: GraphWriter, w: Weights, x: str, routing: Routing, bank: ExpertBank) -> str:
        """Return the weighted sum of expert outputs; see ``blocks.experts``."""
        ...


_DIALECTS: dict[str, DialectBlocks] = {
    "ort-cpu": OrtDialect(),
    "ort-cuda": OrtCudaDialect(),
    "standard": StandardDialect(),
}


def blocks_of(g: GraphWriter) -> DialectBlocks:
    """Return the blocks of the dialect that a graph is written in."""
    return _DIALECTS[g.dialect]
