"""Measured time as plain data: Clock, Span, Trace.

Knows nothing about audio or graphs, nor which names spans have (``spans.py`` does); the profiler reduces a Trace to a
Profile.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

Clock = Callable[[], float]
"""Seconds from an arbitrary origin, never going back; ``time.perf_counter`` unless a test passes its own."""


@dataclass(frozen=True, slots=True)
class Span:
    """One timed piece of work. start_s and seconds are on the Trace's clock; count is the work, in its name's unit."""

    name: str
    start_s: float
    seconds: float
    count: int = 1


@dataclass(slots=True)
class Trace:
    """Every Span of one run, in order of completion.

    ``limit`` bounds the memory of a daemon: beyond it the oldest half is dropped. Who reads the spans of a whole run
    sets it to ``sys.maxsize`` before the run.
    """

    clock: Clock = time.perf_counter
    spans: list[Span] = field(default_factory=list)
    limit: int = 20_000

    @contextmanager
    def span(self, name: str, count: int = 1) -> Iterator[None]:
        """Time the body of a ``with`` block."""
        start = self.clock()
        try:
            yield
        finally:
            self.spans.append(Span(name, start, self.clock() - start, count))
            if len(self.spans) > self.limit:
                del self.spans[: (self.limit + 1) // 2]

    def total(self, name: str) -> tuple[float, int]:
        """Return seconds and work counted under one name."""
        chosen = [span for span in self.spans if span.name == name]
        return sum(span.seconds for span in chosen), sum(span.count for span in chosen)


@dataclass(slots=True)
class Stopwatch:
    """The time spent in its ``with`` blocks so far, never between them, on the clock of a Trace."""

    trace: Trace
    _spent_s: float = 0.0  # in blocks that ended
    _begun_s: float | None = None

    def __enter__(self) -> None:
        self._begun_s = self.trace.clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spent_s, self._begun_s = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds so far, those of a block under way included."""
        return self._spent_s + (0.0 if self._begun_s is None else self.trace.clock() - self._begun_s)
