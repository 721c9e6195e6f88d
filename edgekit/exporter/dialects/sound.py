"""The blocks of speech that differ between dialects: attention over given keys, a stream's beginning, phases, choices.

What they share with text is in ``DialectBlocks``. Shapes: S new rows, T keys, H heads, D head size; sound is (1, C, n).
"""

from typing import Protocol

from edgekit.bundle.manifest import Dialect, StateKind
from edgekit.exporter.dialects.ort_sound import OrtSound
from edgekit.exporter.dialects.standard_sound import StandardSound
from edgekit.exporter.dialects.steps import Beginning, SlidingWindow, Steps
from edgekit.exporter.graph import GraphWriter


class SoundBlocks(Protocol):
    """See the module docstring. ``caches``: how a graph hands its caches back."""

    caches: StateKind

    def attention(self, g: GraphWriter, q: str, keys: str, values: str, bias: str, *, heads: int, head_dim: int) -> str:
        """Return attention (B*S, H*D) of q (B, S, H*D) over keys and values (B, H, T, D); ``bias`` (1, 1, S, T)."""
        ...

    def sliding_attention(
        self, g: GraphWriter, rows: tuple[str, str, str], at: SlidingWindow, *, heads: int, head_dim: int
    ) -> str:
        """Return rotary attention of q (S, H*D) over a window; rows: q, and keys and values (at.past + S, H*D)."""
        ...

    def reach(self, g: GraphWriter, at: Steps, layer: int) -> str:
        """Return int64 (1,): how many keys of a layer's cache are scored, seen or not."""
        ...

    def distances(self, g: GraphWriter, x: str, at: Steps, keys: str) -> str:
        """Return how far the last row of x (S, width) stands behind the first of ``keys``, then one less each time.

        float32 (T + S,), down to what lies S rows behind the last key.
        """
        ...

    def cut(self, g: GraphWriter, x: str, fresh: str, count: int) -> str:
        """Return x without its first ``count`` columns where ``fresh`` is 1, if the dialect cuts there."""
        ...

    def silenced(self, g: GraphWriter, x: str, beginning: Beginning) -> str:
        """Return x, zeros in those columns before the beginning that were not cut."""
        ...

    def tell_lead(self, g: GraphWriter, beginning: Beginning) -> None:
        """Write the output ``lead``, how many samples of a call lie before the beginning, where they were not cut."""
        ...

    def turns(self, g: GraphWriter, pitch: str, rate: int, frame: int, overtones: int) -> tuple[str, str]:
        """Return what a tone of ``pitch`` Hz (frames, 1) and its overtones do in turns, whole turns left out.

        How many were made up to the end of each frame of ``frame`` samples, (frames, 1, overtones), and how many are in
        a sample at ``rate``, (frames, overtones); both float32.
        """
        ...


_DIALECTS: dict[Dialect, SoundBlocks] = {"ort-cpu": OrtSound(), "standard": StandardSound()}


def sound_blocks_of(g: GraphWriter) -> SoundBlocks:
    """Return the blocks of the dialect that a graph is written in."""
    return _DIALECTS[g.dialect]
