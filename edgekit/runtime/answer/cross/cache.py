"""CrossCache: what a backbone attends to beside its tokens, gathered while sound comes in."""

import numpy as np

from edgekit.runtime.engine import Array


class CrossCache:
    """Keys and values of one utterance for cross-attention; rows 2i and 2i + 1 belong to decoder layer i.

    The attention op wants contiguous arrays of exactly the positions heard. ``make_room`` lays them out for a number of
    positions still to come, while there is time; where the guess was right, packing at the end copies nothing. Arrays
    once returned are not written again, and are not writeable either: a backend may keep its own copy of them.
    """

    def __init__(self, layers: int, heads: int, head_dim: int, max_positions: int, dtype: str = "float32") -> None:
        self.positions = 0
        self._dtype = np.dtype(dtype)
        self._shape = (2 * layers, heads, head_dim)
        self._max_positions = max_positions
        self._laid = self._empty(0)

    def append(self, cross: Array) -> None:
        """Add positions. cross: (2 * layers, heads, n, head_dim), copied."""
        assert (cross.shape[0], cross.shape[1], cross.shape[3]) == self._shape, cross.shape
        if not cross.shape[2]:
            return
        start, self.positions = self.positions, self.positions + cross.shape[2]
        assert self.positions <= self._max_positions, f"{self.positions} positions, room for {self._max_positions}"
        if self.positions > self._laid[0].shape[2]:
            self._lay(self.positions, start)
        for row, array in enumerate(self._laid):
            array[0, :, start : self.positions] = cross[row]

    def make_room(self, positions: int) -> None:
        """Lay the arrays out for exactly this many positions more, as far as the encoder has them."""
        self._lay(min(self.positions + positions, self._max_positions), self.positions)

    def packed(self) -> list[Array]:
        """Return 2 * layers contiguous arrays (1, heads, positions, head_dim), the same ones while nothing is added."""
        if self._laid[0].shape[2] != self.positions:
            self._lay(self.positions, self.positions)
        for array in self._laid:
            array.flags.writeable = False
        return self._laid

    def back(self, positions: int) -> None:
        """Forget all but the first positions. Arrays that were handed out are left alone."""
        self._lay(positions, positions)
        self.positions = positions

    def reset(self) -> None:
        """Forget the utterance."""
        self.positions = 0
        self._laid = self._empty(0)

    def _lay(self, size: int, held: int) -> None:
        """Move the first ``held`` positions into arrays of ``size`` positions."""
        wider = self._empty(size)
        for old, new in zip(self._laid, wider, strict=True):
            new[0, :, :held] = old[0, :, :held]
        self._laid = wider

    def _empty(self, positions: int) -> list[Array]:
        rows, heads, head_dim = self._shape
        return [np.empty((1, heads, positions, head_dim), self._dtype) for _ in range(rows)]
