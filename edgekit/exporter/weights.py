"""Weights: named tensors of a checkpoint, written into a graph in the precision of their group.

Knows nothing of dialects, which decide what nodes a linear or a bank of experts becomes. Tensors are read by row blocks
and never held whole, except encoder linears that must be transposed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors, read
from edgekit.recipe import Group, QuantizeSettings

ROW_BLOCK_BYTES = 16 << 20

Float = NDArray[np.float32]
Report = Callable[[int], None]
Observes = Literal["inputs", "rows"]
"""What a graph puts out of an encoder linear's input: all of it, or some rows of it and the range of all."""


def row_blocks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) so that one block of rows stays near 16 MiB."""
    step = max(1, ROW_BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


@dataclass(slots=True)
class Weights:
    """A source of tensors bound to the precision of each group; ``report`` is told the bytes read so far.

    ``ranges``: largest magnitude of what goes into an encoder linear, by the linear's name, where activations have
    fixed scales. ``smoothing``: of linears in the finer form, by name, what each channel of their input is multiplied
    by, (width,). ``observes``: write graphs that also put out what goes into those linears, see ``Observes``.
    """

    source: Tensors
    precision: Mapping[Group, Precision]
    settings: QuantizeSettings
    report: Report = field(default=lambda _bytes: None)
    ranges: Mapping[str, float] = field(default_factory=dict)
    smoothing: Mapping[str, Float] = field(default_factory=dict)
    observes: Observes | None = None

    def read(self, name: str) -> Float:
        """Return a whole tensor as float32."""
        array = read(self.source, name)
        self.report(array.nbytes)
        return array

    def blocks(self, name: str) -> Iterator[tuple[int, Float]]:
        """Yield (row, rows) of a matrix in blocks."""
        rows, width = self.source.shape(name)
        for start, stop in row_blocks(rows, width * 4):
            block = self.source.rows(name, start, stop)
            self.report(block.nbytes)
            yield start, block

    def block(self, group: Group) -> int:
        """Return the largest block that the recipe allows in a group's linears and tables."""
        return self.settings.head_block if group == "head" else self.settings.backbone_block

    def plain(self, g: GraphWriter, name: str) -> str:
        """Store a tensor as float32 under its own name: norms, biases, convolutions, positions, routers."""
        return g.tensor(name, self.read(name))

    def matrix(self, g: GraphWriter, name: str) -> str:
        """Store a matrix as it is multiplied under its own name, block by block."""
        slot = g.weight(name, g.activations, self.source.shape(name))
        for row, block in self.blocks(name):
            slot.write(row, block.astype(g.activations, copy=False))
        return name


def stored_expert(source: Tensors, name: str, expert: int) -> Float | None:
    """Return one expert's matrix if the source stores banks of experts, as a float bundle does; None if not."""
    if name in source.names() and len(source.shape(name)) == 3:
        return np.asarray(source.rows(name, expert, expert + 1)[0])
    return None
