"""Steps that a signal must not come between: it waits until they are done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)  # Windows lacks one
)  # fmt: skip


@contextmanager
def signals_held() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP wait until the block ends, then do what they would have done.

    Off the main thread, where no handler runs, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING}
    holding = True

    def hold(number: int, frame: FrameType | None) -> None:
        handler = before[number]
        if holding:
            came.append(number)
        elif callable(handler):  # it came while handlers were put back
            handler(number, frame)
        else:
            signal.signal(number, handler)
            signal.raise_signal(number)

    # A handler that is None was not made by Python and could not be put back.
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, hold)
        yield
    finally:
        holding = False
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
