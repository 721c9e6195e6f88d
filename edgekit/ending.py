"""Ending: SIGINT, SIGTERM and SIGHUP end the command line with 128 + their number, from its first instant to its last.

Loads next to nothing, not even typing, so that it is in force before anything that takes its time is loaded.
"""

import _thread
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

SIGNALLED = 128  # with a signal's number added the exit code, as shells count
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last
_AGAIN_S = 0.01  # callbacks are shorter
_raised: list[int] = []  # by the work that is being done
Handler = Callable[[int, FrameType | None], object] | int | None  # as `signal.getsignal` returns it


class Ended(KeyboardInterrupt):
    """A signal ends the program as ^C does: what is half written goes. ``number``: the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def take_signals() -> dict[int, Handler]:
    """Let signals that would end the program do so with 128 + their number and no word; return what they did before.

    Inside ``ended_by_signals`` they raise Ended. Off the main thread, where no handler runs, nothing is changed; nor
    where somebody else ignores or handles them.
    """
    before = {number: signal.getsignal(number) for name in _NAMES if (number := getattr(signal, name, None))}
    before = {n: handler for n, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)}
    try:
        for number in before:
            signal.signal(number, _end)
    except ValueError:  # off the main thread
        return {}
    return before


def give_back(before: dict[int, Handler]) -> None:
    """Let signals do again what ``take_signals`` returned."""
    for number, handler in before.items():
        signal.signal(number, handler)


def take_signals_for_good() -> None:
    """Take the signals of a process that ends with its command.

    Once all has been done and said, exit handlers of libraries too, a signal has nothing to end: it is ignored, since
    the handlers of Python go before the process does.
    """
    import atexit

    if take_signals():
        atexit.register(_ignore)  # the first to be registered runs last


def ended_by_signals(work: Callable[[], object]) -> object:
    """Return what the work returns; a signal that comes meanwhile raises Ended in it, so that it can clean up.

    What it raises where nothing can be raised, as in a callback of libsndfile's, comes again until it is heard; an
    error that a library made of it is Ended too.
    """
    _raised.clear()
    before, taken = sys.unraisablehook, take_signals()

    def unraisable(ignored: "sys.UnraisableHookArgs") -> None:
        if isinstance(ignored.exc_value, Ended):
            _come_again(ignored.exc_value.number)
        else:
            before(ignored)

    sys.unraisablehook = unraisable
    try:
        return _inside(work)
    except Exception as error:
        if _raised:
            raise Ended(_raised[0]) from error
        raise
    finally:
        sys.unraisablehook = before
        give_back(taken)


def _inside(work: Callable[[], object]) -> object:
    return work()


def _end(number: int, frame: FrameType | None) -> None:
    """Raise Ended where ``ended_by_signals`` can take it; anywhere else nothing is half done.

    The stack tells it, since a signal may come between any two steps of a block that is entered or left. While a
    library is loaded it comes again: native code makes another error of it, or crashes at the end if loaded by half.
    """
    loading = False
    while frame is not None:
        if frame.f_code is _inside.__code__:
            if loading:
                return _come_again(number)
            _raised.append(number)
            raise Ended(number)
        loading = loading or frame.f_code.co_filename.startswith("<frozen importlib.")
        frame = frame.f_back
    os._exit(SIGNALLED + number)


def _come_again(number: int) -> None:
    """Send it again to this thread, the main one: a real signal, which also ends what it waits for by then."""
    thread, kill = _thread.get_ident(), getattr(signal, "pthread_kill", None)  # Windows has none

    def wait() -> None:
        time.sleep(_AGAIN_S)
        if kill is None:
            _thread.interrupt_main(signal.Signals(number))
        else:
            kill(thread, number)

    _thread.start_new_thread(wait, ())


def _ignore() -> None:
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_IGN)
