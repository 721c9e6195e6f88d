"""Dialects by name: those that a manifest or a target may name, what a target may combine with them, and their ops.

Who writes the graphs of one stands in ``exporter/dialects``, who runs them in ``runtime/backends``. The ops of those
that EdgeKit brings stand in ``ops/``, one file a dialect, which both sides read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgekit.registry import Registry

Activations = Literal["float32", "float16"]
MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own ops
_OPS = Path(__file__).with_name("ops")


@dataclass(frozen=True, slots=True)
class DialectName:
    """A dialect's name, what its graphs may multiply in, and what they may hold.

    ``ops``: domain and name of every op, "" for ONNX's own domain; ``opsets``: lowest and highest version of each
    domain, ``ir_versions`` of the file's form. A graph with anything else is refused before a library sees it. Without
    ops its graphs are no ONNX, and onnxruntime and TensorRT are not for them.
    """

    name: str
    activations: tuple[Activations, ...]
    ops: frozenset[tuple[str, str]] = frozenset()
    opsets: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ir_versions: tuple[int, int] = (8, 10)


class OpList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Opset and IR version, also of graphs that hold INT4, and ops; with types of the first input where they matter.

    ``contrib``: onnxruntime's own ops.
    """

    opset: int
    ir_version: int
    ops: dict[str, tuple[str, ...]] | tuple[str, ...]
    contrib: dict[str, tuple[str, ...]] | tuple[str, ...] = ()
    int4_opset: int = 0
    int4_ir_version: int = 0

    def types(self, domain: str, op: str) -> tuple[str, ...] | None:
        """Return the types that an op's first input may have; None for an op that is not listed, or without types."""
        allowed = self.contrib if domain else self.ops
        return allowed.get(op) if isinstance(allowed, dict) else None


def op_list(name: str) -> OpList:
    """Return the list of a dialect that EdgeKit brings."""
    return msgspec.toml.decode((_OPS / f"{name}.toml").read_bytes(), type=OpList)


def _listed(name: str) -> dict[str, Any]:
    """Return what a DialectName says of ops."""
    listed = op_list(name)
    opsets = {"": (listed.opset, max(listed.opset, listed.int4_opset))} | (
        {MICROSOFT: (1, 1)} if listed.contrib else {}
    )
    return {
        "ops": frozenset([*(("", op) for op in listed.ops), *((MICROSOFT, op) for op in listed.contrib)]),
        "opsets": opsets,
        "ir_versions": (listed.ir_version, max(listed.ir_version, listed.int4_ir_version)),
    }


DIALECTS = Registry[DialectName]("dialect", DialectName)
register, registered = DIALECTS.register, DIALECTS.registered

register(DialectName("ort-cpu", ("float32",), **_listed("ort-cpu")))
register(DialectName("ort-cuda", ("float16",), **_listed("ort-cuda")))
register(DialectName("standard", ("float32", "float16"), **_listed("standard")))
