"""Stopping: any command that a signal ends cleans up, and a run hears out what it has begun to hear."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

SIGNALLED = 128  # with a signal's number added the exit code, as shells count
_AGAIN_S = 0.01  # callbacks are shorter
_Piece = TypeVar("_Piece")


class Ended(KeyboardInterrupt):
    """A signal ends the program as ^C does: what is half written goes. ``number``: the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise Ended where they would kill the program without a chance to clean up.

    What they or ^C raise where nothing can be raised, as in a callback of libsndfile's, comes again until it is heard.
    Off the main thread, where no handler runs, nothing is changed; nor where somebody else ignores or handles them.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows lacks one
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    before = sys.unraisablehook

    def unraisable(ignored: "sys.UnraisableHookArgs") -> None:
        if isinstance(ignored.exc_value, KeyboardInterrupt) and not isinstance(ignored.exc_value, _Stopped):
            number = getattr(ignored.exc_value, "number", signal.SIGINT)
            again = threading.Timer(_AGAIN_S, _thread.interrupt_main, [number])
            again.daemon = True
            again.start()
        else:
            before(ignored)

    sys.unraisablehook = unraisable
    try:
        for number in numbers:
            signal.signal(number, _end)
        yield
    finally:
        sys.unraisablehook = before
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    raise Ended(number)


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
