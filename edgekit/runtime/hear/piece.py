"""Piece: the sound that the encoder is hearing at once, kept for as long as some of it may have to be heard again.

Knows samples only. Where speech goes on for longer than the encoder hears, the answer to a full piece leaves its last
words to the next one, which begins with their sound.
"""

from dataclasses import dataclass

import numpy as np

from edgekit.runtime.engine import Array
from edgekit.runtime.hear.listener import ListenerMark

_SILENCE = 2 / 32768  # full scale: what dither makes of nothing at 16 bits
_HOP_S, _QUIET_S = 0.01, 0.1  # a place is as quiet as the tenth of a second around it


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """A piece before its last seconds: its parts, and marks of who hears and who writes."""

    parts: tuple[Array, ...]
    listener: ListenerMark
    answerer: object


@dataclass(frozen=True, slots=True, eq=False)
class PieceMark:
    """Where a Piece stood."""

    start: int
    parts: tuple[Array, ...]
    before: Before | None

    def samples(self) -> Array:
        """Return all samples (n,) so far."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)


class Piece:
    """One piece of sound, from sample ``start`` of the stream to ``end``. ``before``: None where nobody set it."""

    def __init__(self) -> None:
        self.start = self.end = 0
        self.before: Before | None = None
        self._parts: list[Array] = []

    def begin(self, at_sample: int) -> None:
        """Begin another piece."""
        self.start = self.end = at_sample
        self.before, self._parts = None, []

    def append(self, samples: Array) -> None:
        """Add the next samples (n,)."""
        self._parts.append(samples)
        self.end += len(samples)

    @property
    def silent(self) -> bool:
        """Whether it holds nothing but digital silence."""
        return all(float(np.abs(part).max(initial=0.0)) <= _SILENCE for part in self._parts)

    def set_before(self, listener: ListenerMark, answerer: object) -> None:
        """Take note that the last seconds begin; see ``go_back``."""
        self.before = Before(tuple(self._parts), listener, answerer)

    def go_back(self) -> None:
        """Forget what was added since ``set_before``."""
        assert self.before is not None, "set before"
        self._parts = list(self.before.parts)
        self.end = self.start + sum(map(len, self._parts))

    def mark(self) -> PieceMark:
        """Return where it stands; see ``back``."""
        return PieceMark(self.start, tuple(self._parts), self.before)

    def back(self, mark: PieceMark) -> None:
        """Forget what happened since the mark."""
        self.start, self._parts, self.before = mark.start, list(mark.parts), mark.before
        self.end = self.start + sum(map(len, self._parts))


def quietest(samples: Array, rate: int) -> int:
    """Return the sample in the middle of the quietest tenth of a second of ``samples`` (n,), the last of several."""
    hop = max(1, round(_HOP_S * rate))
    size = round(_QUIET_S / _HOP_S)
    hops = len(samples) // hop
    if hops < size:
        return len(samples) // 2
    energy = np.square(samples[: hops * hop].astype(np.float64)).reshape(hops, hop).sum(axis=1)
    around = np.lib.stride_tricks.sliding_window_view(energy, size).sum(axis=1)
    place = len(around) - 1 - int(np.argmin(around[::-1]))
    return place * hop + size * hop // 2
