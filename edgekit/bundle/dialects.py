"""Dialects by name: those that a manifest or a target may name, and what a target may combine with them.

Who writes the graphs of one stands in ``exporter/dialects``, who runs them in ``runtime/backends``.
"""

from dataclasses import dataclass
from typing import Literal

from edgekit.registry import Registry

Activations = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class DialectName:
    """A dialect's name, and what its graphs may multiply in."""

    name: str
    activations: tuple[Activations, ...]


DIALECTS = Registry[DialectName]("dialect", DialectName)
register, registered = DIALECTS.register, DIALECTS.registered

register(DialectName("ort-cpu", ("float32",)))
register(DialectName("ort-cuda", ("float16",)))
register(DialectName("standard", ("float32", "float16")))
