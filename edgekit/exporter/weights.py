"""Weights: named tensors of a checkpoint, written into a graph in the precision of their group.

Which node a linear or a bank of experts becomes is the dialect's. Tensors are read by row blocks and never held whole,
except encoder linears that must be transposed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Precision
from edgekit.exporter.dialects import Routing, blocks_of
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors, read
from edgekit.recipe import Group, QuantizeSettings

ROW_BLOCK_BYTES = 16 << 20

Float = NDArray[np.float32]
Report = Callable[[int], None]


def row_blocks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) so that one block of rows stays near 16 MiB."""
    step = max(1, ROW_BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


@dataclass(frozen=True, slots=True)
class ExpertBank:
    """The experts of one feed-forward, as a graph stores them.

    ``names`` are the stored names of the input projections (experts, inner, hidden; gate and up rows interleaved where
    ``gated``) and of the output projections (experts, hidden, inner); ``load(name, expert)`` gives one expert's matrix.
    ``bias`` names the bias of the input projections, experts x inner values. ``chosen`` is the most experts a token may
    have. ``group`` is the precision group of the matrices.
    """

    names: tuple[str, str]
    experts: int
    chosen: int
    inner: int
    hidden: int
    gated: bool
    load: Callable[[str, int], Float]
    bias: str | None = None
    group: Group = "experts"

    @property
    def first_rows(self) -> int:
        """Rows of one expert's input projection."""
        return self.inner * (2 if self.gated else 1)

    @property
    def matrices(self) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
        """Name, rows and width of one expert's matrix in each bank."""
        return (self.names[0], self.first_rows, self.hidden), (self.names[1], self.hidden, self.inner)


@dataclass(slots=True)
class Weights:
    """A source of tensors bound to the precision of each group; ``report`` is told the bytes read so far.

    ``ranges``: largest magnitude of what goes into an encoder linear, by the linear's name, where activations have
    fixed scales. ``observes``: write graphs that also put out what goes into those linears.
    """

    source: Tensors
    precision: Mapping[Group, Precision]
    settings: QuantizeSettings
    report: Report = field(default=lambda _bytes: None)
    ranges: Mapping[str, float] = field(default_factory=dict)
    observes: bool = False

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

    def linear(self, g: GraphWriter, x: str, name: str, group: Group, bias: str | None = None) -> str:
        """Return ``x @ weight.T + bias`` for x (rows, in) and the tensor ``name`` (out, in)."""
        return blocks_of(g).linear(g, self, x, name, group=group, bias=self.plain(g, bias) if bias else "")

    def matrix(self, g: GraphWriter, name: str) -> str:
        """Store a matrix as it is multiplied under its own name, block by block."""
        slot = g.weight(name, g.activations, self.source.shape(name))
        for row, block in self.blocks(name):
            slot.write(row, block.astype(g.activations, copy=False))
        return name

    def experts(self, g: GraphWriter, x: str, routing: Routing, bank: ExpertBank) -> str:
        """Return the weighted sum of expert outputs for x (rows, hidden); work of those not chosen is skipped.

        Plain experts use GELU, gated ones SwiGLU.
        """
        return blocks_of(g).experts(g, self, x, routing, bank)

    def expert_bias(self, g: GraphWriter, bank: ExpertBank) -> str:
        """Store the bias of a bank's input projections as (experts, inner); the name is empty if there is none."""
        return g.tensor(bank.bias, self.read(bank.bias).reshape(bank.experts, -1)) if bank.bias else ""

    def expert(self, name: str, bank: ExpertBank, expert: int) -> Float:
        """Return one expert's matrix."""
        rows = bank.load(name, expert)
        self.report(rows.nbytes)
        return rows

    def expert_matrices(self, g: GraphWriter, bank: ExpertBank) -> tuple[str, str]:
        """Store both projections of a bank as they are multiplied, (experts, rows, width), and return their names."""
        slots = [g.weight(name, g.activations, (bank.experts, rows, width)) for name, rows, width in bank.matrices]
        for expert in range(bank.experts):
            for name, slot in zip(bank.names, slots, strict=True):
                slot.write(expert, self.expert(name, bank, expert)[None].astype(g.activations, copy=False))
        return bank.names


def stored_expert(source: Tensors, name: str, expert: int) -> Float | None:
    """Return one expert's matrix if the source stores banks of experts, as a float bundle does; None if not."""
    if name in source.names() and len(source.shape(name)) == 3:
        return np.asarray(source.rows(name, expert, expert + 1)[0])
    return None
