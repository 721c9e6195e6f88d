"""Signals that a process which serves waits for: those that end it, and SIGHUP, by which it reads its configuration.

A terminal that is closed sends SIGHUP too, and then there is nobody to serve: the terminal of this process is gone, and
it ends. Where it never had one, as under systemd, or still has it, SIGHUP reloads. ``nohup`` ignores it from the start,
and so it stays.
"""

import os
import select
import signal
from contextlib import suppress
from types import FrameType, TracebackType

RELOAD = getattr(signal, "SIGHUP", 0)  # Windows has none
_ENDING = (signal.SIGINT, signal.SIGTERM)
_TERMINAL = "/dev/tty"  # the controlling one; it cannot be opened by who has none


class Signals:
    """The signals of this process, while in a ``with`` block of the main thread.

    The first that ends it gives SIGINT and SIGTERM back what they did before: a second one ends it at once.
    ``received``: that first one, 0 while none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._waiting: list[int] = []
        self._before = {number: signal.getsignal(number) for number in (*_ENDING, RELOAD) if number}
        self._terminal = _has_terminal()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._poll = select.poll()  # select() takes no descriptor beyond 1,023
        self._poll.register(self._reader, select.POLLIN)

    def __enter__(self) -> "Signals":  # noqa: PYI034 - typing.Self needs Python 3.11
        for number, before in self._before.items():
            if not (number == RELOAD and before == signal.SIG_IGN):
                signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout_s: float) -> int:
        """Sleep until a signal comes, at most so long; return its number, 0 if none came. Then look at ``received``."""
        if not self._waiting and self._poll.poll(timeout_s * 1000):
            os.read(self._reader, 512)
        if not self._waiting:
            return 0
        number = self._waiting.pop(0)
        if number != RELOAD or (self._terminal and not _has_terminal()):
            self.received = self.received or number
        return number

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self._waiting.append(number)
        if number != RELOAD:
            for one in _ENDING:
                signal.signal(one, self._before[one])
        with suppress(BlockingIOError):  # full of signals: who waits is awake
            os.write(self._writer, b"x")


def _has_terminal() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
