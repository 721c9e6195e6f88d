"""Daemon: sound from a Source through a Stream until it is told to stop, with every sample accounted for.

    PortAudio callback -> Ring -> one worker loop -> Stream.push -> events

The worker sleeps until the callback wakes it. When it falls behind, it tells the Stream how much sound waits, so that
the Policy can choose a cheaper level, and the Ring drops the oldest. Knows nothing of what is printed, nor of bundles.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Protocol

from edgekit.errors import DeviceError, EdgeKitError
from edgekit.runtime.audio.files import Samples
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.events import Event
from edgekit.runtime.stream import Stream

PUSH_S = 0.1  # at most this much sound in one push: the next one sees a fresh lag
WAIT_S = 1.0  # a stop signal is noticed at the next sample, or after this if the device has gone silent
DEAF_S = 10.0  # no sample for so long is a failure: better to restart than to listen to nothing


class Source(Protocol):
    """Sound that comes by itself, into a Ring; recording while in a ``with`` block. ``audio.Microphone`` is one."""

    sample_rate_hz: int
    channels: int
    overflows: int
    ring: Ring

    def __enter__(self) -> object:
        """Begin to record."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: nothing is written to the ring any more."""
        ...

    @property
    def dropped_samples(self) -> int:
        """Samples per channel that were recorded but not read in time."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, at most ``timeout_s``; say whether they are. Raises what ended the source."""
        ...

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples that wait, (n, channels) float32 with n <= ``max_samples``. Never blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the samples went, per channel at the source's rate: captured = processed + gated + dropped.

    ``overflows`` counts the times that the device lost samples before anybody could count them.
    """

    captured: int
    processed: int
    gated: int
    dropped: int
    overflows: int
    sample_rate_hz: int

    def __str__(self) -> str:
        """Return the account as one line."""
        return (
            f"captured {self.captured} = processed {self.processed} + gated {self.gated} + dropped {self.dropped} "
            f"samples at {self.sample_rate_hz} Hz; {self.overflows} overflows of the device"
        )


class Daemon:
    """One Source, one Stream, one loop. ``show`` gets every Event as soon as the push that caused it returns."""

    def __init__(self, source: Source, stream: Stream, show: Callable[[Event], None]) -> None:
        options = stream.options
        assert (options.sample_rate_hz, options.channels) == (source.sample_rate_hz, source.channels)
        self._source, self._stream, self._show = source, stream, show
        self._stopping = False
        self._pushed = self._dropped = self._refused = 0

    @property
    def tally(self) -> Tally:
        """The account so far; it balances once ``run`` has ended."""
        source, stream = self._source, self._stream
        processed, gated = stream.samples_received - stream.samples_gated, stream.samples_gated
        if stream.samples_received not in (0, self._pushed):
            # The Gate counts after resampling: its share of the samples is exact, their number is not.
            gated = round(self._pushed * gated / stream.samples_received)
            processed = self._pushed - gated
        return Tally(
            captured=source.ring.written_samples // source.channels,
            processed=processed,
            gated=gated,
            dropped=source.dropped_samples + self._refused,
            overflows=source.overflows,
            sample_rate_hz=source.sample_rate_hz,
        )

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping

    def stop(self) -> None:
        """End ``run`` soon; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Listen until ``stop`` or the end of the source, then finish what was recorded.

        Raises DeviceError when the source fails; what it recorded until then has been shown.
        """
        failure: EdgeKitError | OSError | None = None
        with self._source:
            try:
                self._listen()
            except (EdgeKitError, OSError) as error:
                failure = error
        while self._source.ring.available_samples:
            self._push()
        self._emit(self._stream.finish())
        if failure is not None:
            raise failure

    def _listen(self) -> None:
        silent_s = 0.0
        while not self._stopping:
            if self._source.wait(WAIT_S):
                silent_s = 0.0
                self._push()
            elif self._source.ring.closed:
                return
            else:
                silent_s += WAIT_S
                if silent_s >= DEAF_S:
                    raise DeviceError(
                        f"microphone: no sound for {DEAF_S:.0f} s, not even silence; check its plug, then start again"
                    )

    def _push(self) -> None:
        source = self._source
        dropped = source.dropped_samples
        samples = source.read(round(PUSH_S * source.sample_rate_hz))
        waiting = source.ring.available_samples // source.channels
        lost, self._dropped = dropped - self._dropped, dropped
        lag_ms = waiting * 1000 / source.sample_rate_hz
        self._refused += len(samples)  # until the stream has them: an error in `push` leaves it as before
        events = self._stream.push(samples, lag_ms=lag_ms, dropped_samples=lost)
        self._refused -= len(samples)
        self._pushed += len(samples)
        self._emit(events)

    def _emit(self, events: list[Event]) -> None:
        for event in events:
            self._show(event)


@contextmanager
def stopped_by_signals(daemon: Daemon) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the daemon in good order; a second one ends the program at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        restore()
        daemon.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
