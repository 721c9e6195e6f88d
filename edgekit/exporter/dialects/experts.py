"""A bank of experts: which matrices one feed-forward has, and how they get into a graph as they are multiplied."""

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Float, Weights
from edgekit.recipe import Group


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

    def matrix(self, w: Weights, name: str, expert: int) -> Float:
        """Return one expert's matrix of the bank ``name``."""
        rows = self.load(name, expert)
        w.report(rows.nbytes)
        return rows

    def store_bias(self, g: GraphWriter, w: Weights) -> str:
        """Store the bias of the input projections as (experts, inner); the name is empty if there is none."""
        return g.tensor(self.bias, w.read(self.bias).reshape(self.experts, -1)) if self.bias else ""

    def store_plain(self, g: GraphWriter, w: Weights) -> tuple[str, str]:
        """Store both projections as they are multiplied, (experts, rows, width), and return their names."""
        slots = [g.weight(name, g.activations, (self.experts, rows, width)) for name, rows, width in self.matrices]
        for expert in range(self.experts):
            for name, slot in zip(self.names, slots, strict=True):
                slot.write(expert, self.matrix(w, name, expert)[None].astype(g.activations, copy=False))
        return self.names
