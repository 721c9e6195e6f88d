"""The blocks of speech that differ between dialects: attention over given keys, and phases.

What they share with text is in ``DialectBlocks``. Shapes: B rows of a batch, S new rows, T keys, H heads, D head size.
"""

from typing import Protocol

from edgekit.exporter.dialects.ort_sound import OrtSound
from edgekit.exporter.dialects.standard.sound import StandardSound
from edgekit.exporter.dialects.steps import SlidingWindow
from edgekit.exporter.graph import GraphWriter


class SoundBlocks(Protocol):
    """See the module docstring."""

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


_DIALECTS: dict[str, SoundBlocks] = {
    "ort-cpu": OrtSound(),
    "ort-cuda": StandardSound(),
    "standard": StandardSound(),
}


def sound_blocks_of(g: GraphWriter) -> SoundBlocks:
    """Return the blocks of the dialect that a graph is written in."""
    return _DIALECTS[g.dialect]
