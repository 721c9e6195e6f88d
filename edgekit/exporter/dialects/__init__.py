"""Dialects: how the blocks that families share become nodes, for one class of backend each.

``ort-cpu`` and ``ort-cuda`` use onnxruntime's own ops; ``standard`` is plain ONNX with symmetric Q/DQ, for TensorRT. A
family calls ``blocks`` and ``waves`` and never sees which one writes its graph. Another is added by ``register``.
"""

from edgekit.exporter.dialects.base import Dialect, SoundBlocks
from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.dialects.ort_cuda.dialect import OrtCudaDialect
from edgekit.exporter.dialects.standard.dialect import StandardDialect
from edgekit.exporter.dialects.steps import Attention, Routing, SlidingWindow, Steps
from edgekit.exporter.graph import GraphWriter
from edgekit.registry import Registry

__all__ = [
    "DIALECTS",
    "Attention",
    "Dialect",
    "ExpertBank",
    "Routing",
    "SlidingWindow",
    "SoundBlocks",
    "Steps",
    "dialect_of",
    "register",
    "registered",
]

DIALECTS = Registry[Dialect]("writer of dialect", Dialect)
register, registered = DIALECTS.register, DIALECTS.registered

register(OrtDialect())
register(OrtCudaDialect())
register(StandardDialect())


def dialect_of(g: GraphWriter) -> Dialect:
    """Return the dialect that a graph is written in."""
    dialect = DIALECTS.get(g.dialect.name)
    assert dialect is g.dialect, f"{g.graph_file}: its dialect '{dialect.name}' is not the registered one"
    return dialect
