"""What a dialect's writer must have: how the blocks that families share become nodes, for one class of backend.

Adding a dialect is one file and ``register`` here, a ``DialectName`` and ``register`` in ``bundle/dialects.py``, and a
backend that runs it. Shapes in docstrings: S new rows, T keys, H heads, D head size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgekit.bundle import CensusRow, Requirements
from edgekit.bundle.dialects import Activations
from edgekit.exporter.dialects.experts import ExpertBank
from edgekit.exporter.dialects.steps import Attention, Routing, SlidingWindow, Steps
from edgekit.exporter.graph import GraphForm, GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import Packing
from edgekit.recipe import EncoderActivations, Group

LOWEST_ONNXRUNTIME = "1.31"  # the oldest version that graphs of ours were run on


class SoundBlocks(Protocol):
    """The blocks of speech: attention over given keys, and phases.

    Shapes: B rows of a batch, S new rows, T keys, H heads, D head size.
    """

    def attention(self, g: GraphWriter, q: str, keys: str, values: str, bias: str, *, heads: int, head_dim: int) -> str:
        """Return attention (B*S, H*D) of q (B, S, H*D) over keys and values (B, H, T, D); ``bias`` (1, 1, S, T).

        keys and values are as products take them, all else is float32.
        """
        ...

    def sliding_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], at: SlidingWindow, *, heads: int, head_dim: int
    ) -> str:
        """Return rotary attention of q (S, H*D) over a window; rows: q, and keys and values (at.past + S, H*D)."""
        ...

    def turns(self, g: GraphWriter, pitch: str, rate: int, frame: int, overtones: int) -> tuple[str, str]:
        """Return what a tone of ``pitch`` Hz (frames, 1) and its overtones do in turns, whole turns left out.

        How many were made up to the end of each frame of ``frame`` samples, (frames, 1, overtones), and how many are in
        a sample at ``rate``, (frames, overtones); both float32.
        """
        ...


class Dialect(GraphForm, Protocol):
    """One dialect's writer; names and shapes of its blocks are those of ``blocks``.

    ``fixed_shapes``: no shape may depend on a value, and every cache has its full length. ``encoder_activations``: what
    becomes of the inputs of an encoder in INT8; ``static`` ones are calibrated before an export. ``finer_op``: the op
    of an INT8 linear of the encoder whose input is smoothed and has a scale for each row, None where there is no such
    form.
    ``packings``: how the weights of each op that takes codes are read back. ``products``: ops that multiply by weights
    that are no codes. ``sound``: blocks of speech. ``head_steps``: heads that attend to a cache must have sizes that
    are multiples of the first, and with rotary positions of the second.
    """

    fixed_shapes: bool
    encoder_activations: EncoderActivations
    finer_op: str | None
    packings: Mapping[str, Packing]
    products: tuple[str, ...]
    sound: SoundBlocks
    head_steps: tuple[int, int]

    def check(self, graph: Path, activations: Activations) -> None:
        """Raise CensusError naming the first node of a written graph that those who run the dialect would not take."""
        ...

    def requires(self, census: Sequence[CensusRow]) -> Requirements:
        """Return the lowest versions that can load graphs of these weights."""
        ...

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
