"""Stopping: a run that a signal stops hears out what it has begun to hear."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol, TypeVar

_Piece = TypeVar("_Piece")


class _Stopped(KeyboardInterrupt):
    """Ends a wait for what is read next: a pipe may never send it."""


class Stopping:
    """Reads until a signal says to stop. ``stopped``: whether one did; see ``stopped_by_signals``."""

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


class Stoppable(Protocol):
    """What a signal stops."""

    def stop(self) -> None:
        """End soon, in good order. Called from a signal handler."""
        ...


@dataclass(slots=True)
class Received:
    """The first signal that came; 0 while none did."""

    number: int = 0


@contextmanager
def stopped_by_signals(work: Stoppable) -> Iterator[Received]:
    """Let SIGINT, SIGTERM and SIGHUP stop the work in good order; a second one of the first two ends the program.

    A terminal that is closed sends SIGHUP more than once, and a program that is to survive it (``nohup``) ignores it
    from the start. Off the main thread, where no signal arrives, nothing is changed.
    """
    received = Received()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, hangup) if number}
    if hangup and before[hangup] is signal.SIG_IGN:
        del before[hangup]

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, _frame: FrameType | None) -> None:
        if number != hangup:
            for other in (signal.SIGINT, signal.SIGTERM):
                signal.signal(other, before[other])
        received.number = received.number or number
        work.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        restore()
