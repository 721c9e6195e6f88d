"""Turn: a lock that is given in the order in which it is asked for, so that who steps again and again lets others step.

``threading.Lock`` promises no order, and who releases it has it again before another thread wakes.
"""

import threading
from collections import deque
from types import TracebackType


class Turn:
    """One step at a time, of all threads that work with one model; use it in a ``with`` block."""

    def __init__(self) -> None:
        self._waiting: deque[threading.Lock] = deque()  # the first has the turn
        self._changing = threading.Lock()

    def __enter__(self) -> None:
        own = threading.Lock()
        own.acquire()
        with self._changing:
            self._waiting.append(own)
            first = len(self._waiting) == 1
        if not first:
            own.acquire()  # until who has the turn passes it on

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changing:
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0].release()
