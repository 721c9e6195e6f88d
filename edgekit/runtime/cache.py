"""CrossCache: what a text decoder may attend to of one utterance, gathered while the user talks.

The KV caches of encoder and backbone are in-place state of their Calls and need no code here.
"""

import numpy as np

from edgekit.runtime.engine import Array


class CrossCache:
    """Keys and values of one utterance for cross-attention; rows 2i and 2i + 1 belong to decoder layer i."""

    def __init__(self, layers: int, heads: int, head_dim: int, max_positions: int) -> None:
        self.positions = 0
        self._shape = (2 * layers, heads, head_dim)
        self._max_positions = max_positions
        self._pieces: list[Array] = []
        self._packed: list[Array] | None = None

    def append(self, cross: Array) -> None:
        """Add positions. cross: (2 * layers, heads, n, head_dim) float32, kept and not copied."""
        assert self._packed is None, "append after packed(): reset() starts the next utterance"
        assert (cross.shape[0], cross.shape[1], cross.shape[3]) == self._shape, cross.shape
        self.positions += cross.shape[2]
        assert self.positions <= self._max_positions, f"{self.positions} positions, room for {self._max_positions}"
        self._pieces.append(cross)

    def packed(self) -> list[Array]:
        """Return 2 * layers contiguous arrays (1, heads, positions, head_dim), made once per utterance."""
        if self._packed is None:
            rows, heads, head_dim = self._shape
            self._packed = [
                np.concatenate([piece[row : row + 1] for piece in self._pieces], axis=2)
                if self._pieces
                else np.zeros((1, heads, 0, head_dim), np.float32)
                for row in range(rows)
            ]
            self._pieces.clear()
        return self._packed

    def reset(self) -> None:
        """Forget the utterance."""
        self.positions = 0
        self._pieces.clear()
        self._packed = None
