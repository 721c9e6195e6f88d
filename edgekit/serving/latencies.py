"""Latencies: how long after the last word a live stream's texts come, by a clock, as its reader gets them."""

from collections import deque

from edgekit.runtime.events import Event, Provisional, SpeechStopped, Text, Withdrawn

_KEPT = 1000  # of each kind: what a percentile is of
_ARRIVALS = 3000  # pieces of sound, some minutes of them


class Latencies:
    """Milliseconds from the end of speech.

    ``provisional_ms``: to the text of an end that may still be none, ``decided_ms``: to SpeechStopped, ``final_ms``: to
    the final Text behind it. A provisional text that is withdrawn does not count.

    The end of speech is ``SpeechStopped.at_s``, and its moment is when the sound that holds it arrived. Pipecat's
    benchmark of speech services (pipecat-ai/stt-benchmark) measures to the final text in the same way.
    """

    def __init__(self) -> None:
        self.provisional_ms: deque[float] = deque(maxlen=_KEPT)
        self.decided_ms: deque[float] = deque(maxlen=_KEPT)
        self.final_ms: deque[float] = deque(maxlen=_KEPT)
        self._early_ms: float | None = None  # of a provisional text that may be withdrawn
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=_ARRIVALS)  # stream time at a piece's end, moment
        self._stopped: float | None = None  # the moment of the last word, of an utterance whose text is to come

    def arrived(self, until_s: float, now: float) -> None:
        """Take note that the sound up to a time of the stream is there."""
        self._arrivals.append((until_s, now))

    def delivered(self, event: Event, now: float) -> None:
        """Take note of an event that its reader can get now."""
        if isinstance(event, Provisional):
            moment = self._moment(event.at_s)
            self._early_ms = None if moment is None else (now - moment) * 1000
        elif isinstance(event, Withdrawn):
            self._early_ms = None
        elif isinstance(event, SpeechStopped):
            if self._early_ms is not None:
                self.provisional_ms.append(self._early_ms)
                self._early_ms = None
            self._stopped = self._moment(event.at_s)
            if self._stopped is not None:
                self.decided_ms.append((now - self._stopped) * 1000)
        elif isinstance(event, Text) and event.final and self._stopped is not None:
            self.final_ms.append((now - self._stopped) * 1000)
            self._stopped = None

    def add(self, other: "Latencies") -> None:
        """Add what another one measured; its thread may go on measuring."""
        self.provisional_ms.extend(other.provisional_ms.copy())
        self.decided_ms.extend(other.decided_ms.copy())
        self.final_ms.extend(other.final_ms.copy())

    def _moment(self, at_s: float) -> float | None:
        """Return when the sound at a time of the stream came; None if that is not known any more."""
        earlier = False
        for until_s, moment in self._arrivals.copy():
            if until_s >= at_s:
                return moment if earlier or self._arrivals.maxlen != len(self._arrivals) else None
            earlier = True
        return None
