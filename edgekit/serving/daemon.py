"""Daemon: sound from a Source through a Stream until it is told to stop, with every sample accounted for.

    PortAudio callback -> Ring -> taking thread: Stream.push -> working thread: Stream.events -> show

Both sleep until there is something to do. While an answer is written or spoken sound is still taken and gated, so the
user who talks into it is noticed. When the work falls behind, the Stream is told how much sound waits, so that the
Policy can choose a cheaper level; beyond a limit no more is taken, and the Ring drops the oldest. Knows nothing of what
is printed, nor of bundles.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from edgekit.errors import EdgeKitError
from edgekit.runtime.audio.devices.source import Source
from edgekit.runtime.events import Event
from edgekit.runtime.stream import Stream
from edgekit.serving.served import Served
from edgekit.timing import Clock

PUSH_S = 0.1  # at most this much sound in one push: the next one sees a fresh lag
GATHER_S = 0.04  # while nobody talks: sound comes in blocks of 10 ms or less, and each push wakes a core
WAIT_S = 0.5  # a stop signal is noticed at the next sample, or after this if the device has gone silent
MOST_WAITING_S = 20.0  # of sound that counts: the source's ring holds what comes beside, and drops what is too old
SOUND_S = 15.0  # without fresh sound: a device is missed within 3 s and heard 5 s after it is well, so this one is not
AWAY_S = 300.0  # the same while it is known why: a fresh process may help, one every few seconds helps nobody
LEAVE_S = 10.0  # of speech without a pause that is waited for before a sentence is cut after all
COUNT_S = 0.1  # that a count of what is on its way is waited for, where a thread may hang with it
STEP_S = 30.0  # of one step, or of showing what it made: on the slowest device that keeps up a step takes seconds


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the samples went, per channel at the source's rate: captured = processed + gated + dropped.

    ``waiting``: further ones, that were recorded and not heard yet; none at the end. ``overflows`` counts the times
    that the device lost samples before anybody could count them. What is known to be missing while a microphone was
    away is captured and dropped.
    """

    captured: int
    processed: int
    gated: int
    dropped: int
    overflows: int
    sample_rate_hz: int
    waiting: int = 0

    def __str__(self) -> str:
        """Return the account as one line."""
        return (
            f"captured {self.captured} = processed {self.processed} + gated {self.gated} + dropped {self.dropped} "
            f"samples at {self.sample_rate_hz} Hz; {self.overflows} overflows of the device"
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When signs of life last came, by ``time.monotonic``.

    ``sound_s``: sound that was no repetition, or the start. ``work_s``: who works finished a step or had none to do.
    ``step_s``: since when the step under way is; None between two.
    """

    sound_s: float
    work_s: float
    step_s: float | None


class Daemon:
    """One Source, one Stream, two threads: ``run``'s own works, another one takes.

    ``show`` gets every Event, in order, on the working thread. ``talked`` is called on the taking thread after each
    push while the user talks: it decides whether an answer is interrupted.
    """

    def __init__(
        self,
        source: Source,
        stream: Stream,
        show: Callable[[Event], None],
        talked: Callable[[], None] | None = None,
        clock: Clock = time.monotonic,
        *,
        served: Served | None = None,
        after: "Daemon | None" = None,
    ) -> None:
        """``served``: the stream as one of a server's, which steps others in turn with it.

        ``after``: the one that has ``handed_over`` this source: it is open, and this account begins where that ended.
        """
        options = stream.options
        assert (options.sample_rate_hz, options.channels) == (source.sample_rate_hz, source.channels)
        self._source, self._stream, self._show, self._talked = source, stream, show, talked
        self._clock = clock
        self._served = served
        self._started_s = self._worked_s = clock()
        self._step_s: float | None = None
        self._stopping = False
        self._leave_by_s: float | None = None
        self._read = self._pushed = 0  # samples per channel, taken from the source and by the stream
        self._is_open = after is not None
        self.handed_over = False
        self._before: tuple[int, int] = (0, 0) if after is None else after.so_far  # dropped samples, overflows
        self._dropped = self._before[0]
        self.so_far: tuple[int, int] = self._before  # once it was handed over: the same, with this one
        self._counting = threading.Lock()  # held while samples are on the way from one to the other
        self._taken, self._worked = threading.Event(), threading.Event()  # what wakes either thread
        self._ended = self._broken = False  # nothing more is taken; nobody works
        self._failure: BaseException | None = None

    @property
    def tally(self) -> Tally:
        """The account so far; it balances at every instant, and covers all once ``run`` has ended, however it did."""
        with self._counting:
            return self._count()

    @property
    def left_behind(self) -> Tally:
        """The account of one whose threads do not end, as far as it is known: what waits is dropped with them."""
        acquired = self._counting.acquire(timeout=COUNT_S)
        try:
            tally = self._count()
        finally:
            if acquired:
                self._counting.release()
        lost = tally.waiting
        return replace(tally, captured=tally.captured + lost, dropped=tally.dropped + lost, waiting=0)

    def _count(self) -> Tally:
        source, stream = self._source, self._stream
        if self.handed_over:
            (dropped, overflows), in_ring = self.so_far, 0
        else:
            dropped, overflows = source.dropped_samples, source.overflows
            in_ring = source.ring.available_samples // source.channels
        left = in_ring if self._broken else 0  # in the ring, where nobody takes any more
        # The Stream counts after resampling: its shares of the samples are exact, their number is not.
        share = self._pushed / max(1, stream.samples_received)
        gated = min(round(stream.samples_gated * share), self._pushed)
        abandoned = min(round(stream.samples_abandoned * share), self._pushed - gated)
        queued = min(round(stream.samples_waiting * share), self._pushed - gated - abandoned)
        processed = self._pushed - gated - abandoned - queued
        dropped += left + self._read - self._pushed + abandoned - self._before[0]
        return Tally(
            captured=processed + gated + dropped,
            processed=processed,
            gated=gated,
            dropped=dropped,
            overflows=overflows - self._before[1],
            sample_rate_hz=source.sample_rate_hz,
            waiting=in_ring - left + queued,
        )

    @property
    def heartbeat(self) -> Heartbeat:
        """When signs of life last came."""
        sound_s = self._source.fresh_s
        return Heartbeat(
            sound_s=self._started_s if sound_s is None else max(sound_s, self._started_s),
            work_s=self._worked_s,
            step_s=self._step_s,
        )

    def alive(self, now_s: float) -> bool:
        """Return whether it hears and works: fresh sound came lately, and no step is stuck."""
        beat = self.heartbeat
        worked_s = beat.work_s if beat.step_s is None else beat.step_s
        longest_s = AWAY_S if self._source.away else SOUND_S
        return now_s - beat.sound_s <= longest_s and now_s - worked_s <= STEP_S

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping

    def stop(self) -> None:
        """End ``run`` soon: what was recorded is finished, without a voice. From any thread."""
        self._stopping = True
        self._stream.hushed = True

    def leave(self) -> None:
        """End ``run`` once nobody talks, and hand the source over, open, with the sound that waits in it.

        No sentence is cut, unless it goes on for LEAVE_S. What was taken is finished, without a voice. From any thread;
        where ``stop`` or the end of the source comes first, nothing is handed over.
        """
        self._leave_by_s = self._clock() + LEAVE_S

    def close_source(self) -> None:
        """Close the source that was ``handed_over`` and that nobody takes."""
        assert self.handed_over
        self._source.__exit__(None, None, None)

    @property
    def behind(self) -> Tally:
        """The account of what is in the source that was ``handed_over`` and that nobody takes."""
        source, (dropped, overflows) = self._source, self.so_far
        lost = source.dropped_samples - dropped + source.ring.available_samples // source.channels
        return Tally(lost, 0, 0, lost, source.overflows - overflows, source.sample_rate_hz)

    def give_up(self) -> None:
        """End ``run`` when the step under way does: what was not heard until then is dropped."""
        self._stream.close()

    def run(self) -> None:
        """Listen until ``stop`` or the end of the source, then finish what was recorded.

        Raises DeviceError when the source fails; what it recorded until then has been shown. Raises what ``show``
        raises, at once; what was not heard until then is dropped.
        """
        taker = threading.Thread(target=self._take, name="edgekit-taker", daemon=True)
        taker.start()
        try:
            self._work()
        finally:
            self._broken = True  # for a taker that waits for work to be done
            self._worked.set()
            self._stream.close()  # what still waits there was not heard and never will be
            taker.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            ended = self._ended  # before the look at what is pending: what was taken first is seen
            while self._stream.pending:
                self._step_s = self._clock()
                for event in (self._served or self._stream).step():
                    self._show(event)
                self._worked.set()
            self._worked_s, self._step_s = self._clock(), None
            self._worked.set()
            if ended and not self._stream.pending:
                return
            self._taken.wait(WAIT_S)
            self._taken.clear()

    def _take(self) -> None:
        """Take sound until it ends; ``run`` raises what ended it otherwise."""
        try:
            with ExitStack() as stack:
                if self._is_open:
                    stack.push(self._source)
                else:
                    stack.enter_context(self._source)
                self._until_an_error(self._listen)
                if self.handed_over:
                    stack.pop_all()
            while self._source.ring.available_samples and not self.handed_over:
                self._until_an_error(self._push)
            if not self._broken:
                self._stream.finish()
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._failure = self._failure or error
        finally:
            self._ended = True
            self._taken.set()

    def _until_an_error(self, work: Callable[[], None]) -> None:
        """Do some of the work; keep its first error for ``run``, and go on with what was recorded."""
        try:
            work()
        except (EdgeKitError, OSError) as error:
            self._failure = self._failure or error

    def _listen(self) -> None:
        source = self._source
        enough = round(GATHER_S * source.sample_rate_hz) * source.channels
        while not self._stopping and not self._broken:
            if source.wait(WAIT_S):
                if not self._stream.talking and source.ring.available_samples < enough:
                    time.sleep(GATHER_S)
                self._push()
            elif self._source.ring.closed:
                return
            by_s = self._leave_by_s
            if by_s is not None and (not self._stream.talking or self._clock() > by_s):
                self._hand_over()

    def _hand_over(self) -> None:
        with self._counting:
            # What was dropped since the last push was told to no stream yet: the next one's is told of it.
            self.so_far = self._dropped, self._source.overflows
            self.handed_over = not self._stopping
        self.stop()

    def _push(self) -> None:
        """Hand over the oldest sound that waits, once there is room for it."""
        source = self._source
        while self._stream.waiting_s > MOST_WAITING_S and not self._broken:
            self._worked.wait(WAIT_S)
            self._worked.clear()
        with self._counting:
            dropped = source.dropped_samples
            samples = source.read(round(PUSH_S * source.sample_rate_hz))
            self._read += len(samples)
            waiting = source.ring.available_samples // source.channels
            lost, self._dropped = dropped - self._dropped, dropped
            if self._broken:
                return
            lag_ms = waiting * 1000 / source.sample_rate_hz
            take = self._stream.push if self._served is None else self._served.hand_over
            take(samples, lag_ms=lag_ms, dropped_samples=lost)  # an error in it leaves it as before
            self._pushed += len(samples)
        if self._talked is not None and self._stream.talking:
            self._talked()  # before who works wakes, and begins the next turn
        if self._stream.pending:
            self._taken.set()
