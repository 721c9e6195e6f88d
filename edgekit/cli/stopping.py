"""Stopping: a run that a signal stops hears out what it has begun to hear."""

from collections.abc import Iterator
from typing import TypeVar

_Piece = TypeVar("_Piece")


class _Stopped(KeyboardInterrupt):
    """Ends a wait for what is read next: a pipe may never send it."""


class Stopping:
    """Reads until a signal says to stop. ``stopped``: whether one did; see ``daemon.stopped_by_signals``."""

    def __init__(self) -> None:
        self.stopped = False
        self._reading = False

    def stop(self) -> None:
        """Read nothing more. For a signal handler: ends a read at once, any other work when that is done."""
        self.stopped = True
        if self._reading:
            raise _Stopped

    def until(self, pieces: Iterator[_Piece]) -> Iterator[_Piece]:
        """Yield the pieces that are read before ``stop``."""
        while not self.stopped:
            try:
                self._reading = True
                piece = next(pieces)
                self._reading = False
            except (StopIteration, _Stopped):
                return
            finally:
                self._reading = False
            yield piece
