"""Served: one Stream of a server, between an inbox and an outbox that are both bounded.

    push, ask, finish -> inbox -> Stream.push (the server's taking thread)
                                  Stream.step (the server's working thread) -> outbox -> read

Whose stream it is calls everything public here, from any one thread; what begins with ``take`` and ``work`` belongs to
the server. ``wake`` is called on a thread of the server when there is something to read, when it has ended and when the
inbox has room again; it must return at once.
"""

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import AudioError, EdgeKitError, RefusedError, UsageError
from edgekit.runtime.events import Event
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.stream import Stream
from edgekit.serving.latencies import Latencies
from edgekit.serving.limits import Limits
from edgekit.serving.turn import Turn
from edgekit.timing import Clock

Reason = Literal["finished", "closed", "idle", "slow", "duration", "usage", "failed", "stopping"]
Samples = NDArray[np.float32] | NDArray[np.int16]

PIECE_S = 0.1  # at most so much sound is taken at once: no stream keeps the others waiting
LONGEST_TEXT = 2**17  # characters: tokens are made of some MB of them in seconds, in which nobody's sound is taken
MOST_QUESTIONS = 32  # that wait to be answered
INBOX_BYTES = 32 * 2**20  # of sound that nobody has taken yet: ten seconds of 64 channels at 768 kHz are 2 GB
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a stream is over. ``error``: one line, of one that failed, or was given what it cannot take (``usage``)."""

    reason: Reason
    error: str = ""


class Tap(Protocol):
    """Sees what goes into a stream and what comes of it; must return at once, and raises nothing."""

    def pushed(self, samples: Samples, missing_samples: int = 0) -> None:
        """Take note of a piece of sound and of what was lost before it, on the thread of whose stream it is."""
        ...

    def event(self, event: Event) -> None:
        """Take note of an event, on the working thread."""
        ...


class Served:
    """See the module. ``live``: its sound comes as it is said, so that lag counts and its turn comes before files."""

    def __init__(
        self,
        stream: Stream,
        limits: Limits,
        name: str,
        *,
        live: bool,
        wake: Callable[[], None],
        stir: Callable[[], None],
        clock: Clock,
        tap: Tap | None = None,
        turn: Turn | None = None,
    ) -> None:
        """``stir`` wakes the server; ``tap``: see Tap; ``turn``: of one that is stepped by whose it is."""
        self.stream, self.name, self.live = stream, name, live
        self.latencies = Latencies()
        self.ended: Ended | None = None
        self.failure: Exception | None = None  # what ended it, if it failed
        self.made: Counter[str] = Counter()  # events, by kind
        self.pushed_samples = 0  # at the caller's rate
        self._missing_samples = 0  # that a device lost: stream time counts them
        self.worked_s = self.share_s = 0.0  # in steps; the same, as the server compares it
        self.stepped_at = -math.inf
        self._limits, self._wake, self._stir, self._clock = limits, wake, stir, clock
        self._rate = stream.options.sample_rate_hz
        self._most = max(1, round(limits.audio_s * self._rate))
        self._piece = max(1, round(PIECE_S * self._rate))
        self._inbox: deque[Samples | tuple[str, str] | None] = deque()  # sound, a question, the end
        self._inbox_in = self._inbox_out = 0  # samples put in (the caller's), taken out (the taking thread's)
        self._bytes_in = self._bytes_out = 0  # the same, in bytes
        self._asked = self._asked_on = 0  # questions put in, and handed on to the stream
        self._outbox: deque[Event] = deque()
        self._full = False  # somebody waits for room in the inbox
        self._finishing = False
        self._tap, self._turn = tap, turn
        self._whole = False  # the stream has taken all there is
        self._refusal: Exception | None = None  # of the stream, to take more
        self._ending: Reason = "finished"  # what a stream that is done has come to
        self._steps = 0  # begun and ended ones together: odd while one is under way
        self._active_at = self._read_at = self._due_from = clock()  # the last: when second 0 was due, at the latest

    # Whose stream it is ---------------------------------------------------------------------------------------------

    @property
    def inbox_s(self) -> float:
        """Seconds of sound that nobody has taken yet."""
        return (self._inbox_in - self._inbox_out) / self._rate

    @property
    def pushed_s(self) -> float:
        """Seconds of sound that came."""
        return self.pushed_samples / self._rate

    @property
    def behind_s(self) -> float:
        """Seconds of sound that came and was neither heard nor gated."""
        return self.inbox_s + self.stream.waiting_s

    @property
    def late_s(self) -> float:
        """Seconds that this stream is late by the server's doing.

        Sound that came faster than it is said is not due yet, and where nobody reads nothing is.
        """
        if self.blocked or not self.live:
            return 0.0
        settled_s = self.pushed_s - self.behind_s
        return max(0.0, min(self.behind_s, self._clock() - self._due_from - settled_s))

    @property
    def room(self) -> bool:
        """Whether the inbox has room for more sound; if not, ``wake`` is called once it has."""
        if self._filled < 1:
            return True
        self._full = True
        return self._filled < 1  # room may have come before anybody could be told

    @property
    def _filled(self) -> float:
        """The share of the inbox that is taken, by whichever bound is nearer."""
        return max(self.inbox_s / self._limits.inbox_s, (self._bytes_in - self._bytes_out) / INBOX_BYTES)

    def push(self, samples: Samples) -> None:
        """Put sound into the inbox, as ``Stream.push`` takes it; copied.

        Raises RefusedError, and takes nothing, where there is no ``room``. Of a stream that has ended nothing is taken.
        """
        if self.ended is not None or self._finishing:
            return
        if not self.room:
            raise RefusedError(
                "full", f"sound: {self.inbox_s:.1f} s of it wait to be taken, at most {self._limits.inbox_s:g} s may; "
                "send no faster than it is heard",
            )  # fmt: skip
        now = self._active_at = self._clock()
        self._due_from = max(self._due_from, now - self.pushed_s)  # the source paused
        left = self._most - self.pushed_samples
        self.latencies.arrived((self.pushed_samples + min(len(samples), left)) / self._rate, now)
        for start in range(0, min(len(samples), left), self._piece):
            piece = samples[start : min(start + self._piece, left)].copy()
            self.pushed_samples += len(piece)
            self._inbox_in += len(piece)
            self._bytes_in += piece.nbytes
            if self._tap is not None:
                self._tap.pushed(piece)
            self._inbox.append(piece)
        if len(samples) > left:
            self._ending = "duration"
            self.finish()
        self._stir()

    def hand_over(self, samples: Samples, *, lag_ms: float, dropped_samples: int = 0) -> None:
        """Take sound at once, past the inbox, for who steps himself: of a device, whose sound cannot wait outside.

        As ``Stream.push``, and raises what that raises.
        """
        now = self._active_at = self._clock()
        self._due_from = max(self._due_from, now - self.pushed_s)
        ahead = self.pushed_samples + self._missing_samples + dropped_samples + len(samples)
        self.latencies.arrived(ahead / self._rate, now)
        self.stream.push(samples, lag_ms=lag_ms, dropped_samples=dropped_samples)
        self.pushed_samples += len(samples)
        self._missing_samples += dropped_samples
        if self._tap is not None:
            self._tap.pushed(samples, dropped_samples)

    def step(self) -> list[Event]:
        """Do one step when it is this stream's turn, for who steps himself; return and raise what the stream does."""
        assert self._turn is not None
        with self._turn:
            begun = self._clock()
            try:
                events = self.stream.step()
            finally:
                self._stepped(begun)
        self._note(events)
        return events

    def ask(self, text: str, role: str = "user") -> None:
        """Put a question into the inbox, as ``Stream.ask`` takes it.

        Raises UsageError for one that is too long, RefusedError where too many wait.
        """
        check_length("text", text)
        if self._asked - self._asked_on + self.stream.waiting_questions >= MOST_QUESTIONS:
            raise RefusedError(
                "full", f"questions: {MOST_QUESTIONS} wait to be answered, no more may; ask again when one was"
            )
        self._asked += 1
        self._active_at = self._clock()
        self._inbox.append((text, role))
        self._stir()

    def finish(self) -> None:
        """Say that no more sound comes; what came is heard, then the stream ends."""
        if not self._finishing:
            self._finishing = True
            self._inbox.append(None)
            self._stir()

    def interrupt(self, answer: int, heard_s: float | None = None) -> None:
        """End an answer; see ``Stream.interrupt``."""
        self.stream.interrupt(answer, heard_s)
        self._stir()

    def close(self, reason: Reason = "closed", error: str = "") -> None:
        """End at once; sound that waits is abandoned. Events that were made can still be read."""
        self.stream.close()
        if self.ended is None:
            self.ended = Ended(reason, error)
        self._stir()
        self._wake()

    def read(self, at_most: int | None = None) -> list[Event]:
        """Return the events that wait to be read, in order, ``at_most`` of them; never waits."""
        box = self._outbox
        self._read_at = self._clock()
        blocked = self.blocked  # who steps waits for room
        events = [box.popleft() for _ in range(min(len(box), at_most or len(box)))]
        if blocked:
            self._stir()
        return events

    # The server -----------------------------------------------------------------------------------------------------

    @property
    def own(self) -> bool:
        """Whether it is stepped by whose it is, not by the server."""
        return self._turn is not None

    @property
    def blocked(self) -> bool:
        """Whether more events wait to be read than may."""
        return len(self._outbox) >= self._limits.events

    @property
    def pending(self) -> bool:
        """Whether a step has something to do, and somewhere to put what it makes."""
        return self.ended is None and self.stream.pending and not self.blocked and not self.own

    def take(self) -> bool:
        """Take one item out of the inbox; return whether there was one that may be taken now."""
        over = self.ended is not None or self._refusal is not None
        if over or not self._inbox or self.stream.waiting_s > self._limits.waiting_s:
            return False
        item = self._inbox.popleft()
        try:
            if item is None:
                self.stream.finish()
                self._whole = True
                self.look(self._clock())  # nothing may be left to do
            elif isinstance(item, tuple):
                self.stream.ask(item[0], role=item[1])
                self._asked_on += 1
            else:
                lag_ms = self.inbox_s * 1000 - len(item) * 1000 / self._rate if self.live else None
                self._inbox_out += len(item)
                self._bytes_out += item.nbytes
                self.stream.push(item, lag_ms=lag_ms if lag_ms is None else max(0.0, lag_ms))
        except Exception as error:  # noqa: BLE001 - this stream ends, once what was taken before is answered
            with suppress(Exception):  # what ends it is the first error
                self.stream.finish()  # before it is known: who looks meanwhile must see that something is left to do
            self._refusal = error
            self.look(self._clock())
        if self._full and self._filled < 1 / 2:
            self._full = False
            self._wake()
        return True

    def work(self) -> int:
        """Do one step; return the number of events that it made."""
        self._steps += 1
        begun = self._clock()
        events: list[Event] = []
        try:
            events = self.stream.step()
        except Exception as error:  # noqa: BLE001 - this stream ends, the others go on
            self.fail(error)
        now = self._stepped(begun)
        self._note(events)
        self._outbox.extend(events)
        if events:
            self._active_at = now
        self._steps += 1
        if events or not self.stream.pending:
            self.look(now)
        if events:
            self._wake()
        return len(events)

    def _stepped(self, begun: float) -> float:
        self.stepped_at = now = self._clock()
        self.worked_s += now - begun
        self.share_s += now - begun
        return now

    def _note(self, events: list[Event]) -> None:
        for event in events:
            self.latencies.delivered(event, self.stepped_at)
            self.made[event.kind] += 1
            if self._tap is not None:
                self._tap.event(event)

    def look(self, now: float) -> None:
        """End what is over: done, idle, or not read; nothing while a step is under way, whose events are to come."""
        steps = self._steps
        if self.ended is not None or self.own or steps % 2:
            return
        refused = self._refusal if not self.stream.pending else None
        over = self._whole and not self._inbox and self.stream.done
        if self._steps != steps:  # it looked done for the moment in which a step took the last of its sound
            return
        if refused is not None:
            self.fail(refused)
        elif over:
            self.stream.close()
            self.ended = Ended(self._ending)
            self._wake()
        elif self.blocked and now - self._read_at > self._limits.slow_s:
            self.close("slow", f"events: {len(self._outbox)} wait to be read for {self._limits.slow_s:g} s; read them")
        elif not self.stream.pending and not self._inbox and now - self._active_at > self._limits.idle_s:
            self.close("idle", f"stream: neither sound nor a question for {self._limits.idle_s:g} s; open another")

    def stop(self) -> None:
        """Finish what was said, without a voice."""
        self._ending = "stopping"
        self.stream.hushed = True
        self.finish()

    def fail(self, error: Exception) -> None:
        """End for an error: whose fault it is, its class says."""
        if self.ended is None:
            self.failure = error
            if not isinstance(error, EdgeKitError):
                _log.error("stream %s: ended by an unexpected error", self.name, exc_info=error)
            theirs = isinstance(error, (AudioError, UsageError))
            said = str(error) if isinstance(error, EdgeKitError) else "internal error; see the log"
            self.close("usage" if theirs else "failed", said)


def check_length(name: str, text: str | None) -> None:
    """Raise UsageError for a text that is longer than one may be here, before tokens are made of it."""
    if text is not None and len(text) > LONGEST_TEXT:
        raise UsageError(f"{name}: {len(text):,} characters, at most {LONGEST_TEXT:,} are taken; shorten it")


def check_texts(options: StreamOptions) -> None:
    """Raise UsageError for options with a text that is longer than one may be here."""
    for name in ("system", "prompt", "tools"):
        check_length(name, getattr(options, name))


def waited(served: Served, wait: Callable[[], None]) -> Iterator[Event]:
    """Yield the events of a stream until it has ended; ``wait`` returns after ``wake`` was called."""
    while True:
        ended = served.ended  # first: its last events are there before it is set
        events = served.read()
        yield from events
        if ended is not None and not events:
            return
        if not events:
            wait()
