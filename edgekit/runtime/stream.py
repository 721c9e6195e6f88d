"""Stream: push samples, iterate events. The heart of EdgeKit; read this first.

    push -> Resampler -> Gate -> queue -> Work (listener, answerer, speaker) -> events
    [------- taking --------]            [--------------- working --------------]

Taking is quick and done at once: push, ask and finish check, copy, resample and gate their input, put it into the queue
and return ``events()``. Working is done by whoever reads events, or calls ``step``; everything up to the answer while
the user talks. One thread may take while another works. All mutable state is in a Stream and what it owns; engines are
shared. Every split of the same input and every habit of reading gives the same events, if the compute level is pinned
or nothing is live; only partials and provisional ends come as time allows, and change no final text. Knows no files,
microphones or threads.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType

from numpy.typing import ArrayLike

from edgekit.bundle import ComputeLevel
from edgekit.errors import UsageError
from edgekit.reprs import line, quoted
from edgekit.runtime.assemble import assemble, make_gate
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Event
from edgekit.runtime.hear.gate import Played, counting, joined
from edgekit.runtime.hear.items import Asked, Lost
from edgekit.runtime.hear.resampler import Resampler, as_samples
from edgekit.runtime.loading import Loaded
from edgekit.runtime.options import StreamOptions, check_dropped, check_heard, check_lag, check_text
from edgekit.runtime.work import Work, WorkMark
from edgekit.spans import GATE, RESAMPLE
from edgekit.timing import Clock, Trace

MOST_WAITING_S = 60.0  # of sound that counts: more is a recording, or nobody reads


class Stream:
    """One conversation: samples in, events out. At most one thread takes and one works at a time; make one per speaker.

    ``hushed``, ``interrupt`` and ``close`` may be used from any thread. Use it in a ``with`` block, or close it.

    Counters of samples at the front end's rate, mono, at every instant: ``samples_received`` = ``samples_heard`` +
    ``samples_gated`` (no engine sees them) + ``samples_waiting`` + ``samples_abandoned``. ``frames_received``: in hops;
    ``frames_computed`` that went through the encoder (silence added at the end of an utterance included).
    """

    def __init__(self, loaded: Loaded, options: StreamOptions, *, source: str = "input") -> None:
        """Raise UsageError for an option that the bundle does not offer. ``source``: what errors call the sound."""
        self.options, self._name = options, loaded.manifest.name
        self._take_trace, self._work_trace = Trace(), Trace()
        self._hop, self._rate = loaded.manifest.front_end.hop_samples, loaded.manifest.front_end.sample_rate_hz
        parts = assemble(loaded, options, self._work_trace)
        self._gate, self._listener, self._answerer = parts.gate, parts.listener, parts.answerer
        self._resampler = Resampler(options.sample_rate_hz, options.channels, source, rate_out=self._rate)
        self._fresh_gate = partial(make_gate, loaded.manifest, options)
        self._work = Work(loaded, options, parts, self._work_trace)
        self._received = self._pushed = 0  # samples; the latter at the caller's rate, dropped ones included
        self._taking, self._working = threading.Lock(), threading.Lock()
        self._failed = ""  # what ended it, in words
        self._error: Exception | None = None  # of a step, to be raised after that step's events
        self._finished = self._closing = self._closed = False

    def push(self, samples: ArrayLike, *, lag_ms: float | None = None, dropped_samples: int = 0) -> Iterator[Event]:
        """Take the next samples at once and return ``events()``.

        samples: (n,) or (n, channels), float32 in [-1, 1] or int16, any n; copied. lag_ms: audio that waits behind
        these samples at the source; None where nothing is live, so that no compute level falls. dropped_samples: how
        many were lost just before them, at the caller's rate; times count them.

        Raises AudioError if a sample is not finite or above 16, UsageError for a wrong value, after ``finish`` or
        ``close``, where another thread is taking, or if 60 s of sound that counts would wait; it is then as before.
        """
        with self._take("push"):
            if self._finished:
                raise UsageError("push: this stream is finished; start another with model.stream()")
            sound = as_samples(samples, self.options.channels)
            check_lag(lag_ms)
            check_dropped(dropped_samples)
            dropped_samples = int(dropped_samples)  # of numpy's it would count in eight bits
            self._resampler.check(sound)
            self._check_room(sound)
            with self._taken("push"):
                self._work.lag_ms = None if lag_ms is None else float(lag_ms)
                if dropped_samples:
                    rate, gate = self.options.sample_rate_hz, self._gate
                    lost_s, at_s = dropped_samples / rate, self._pushed / rate
                    self._pushed += dropped_samples
                    settled = 0 if gate.is_open else gate.position_samples
                    self._work.put(Lost(gate.pushed_samples, settled, lost_s, dropped_samples, at_s))
                self._pushed += len(sound)
                with self._take_trace.span(RESAMPLE, len(sound)):
                    resampled = self._resampler.push(sound)
                self._queue(resampled)
        return self.events()

    def ask(self, text: str, *, role: str = "user") -> Iterator[Event]:
        """Take a turn in text, such as a question or, with the role ``tool``, what a tool returned; no sound needed.

        Its answer comes after the present one and after what the user is saying; a tool's result goes before sound
        that waits, anything else behind it. Returns ``events()``. Raises UsageError after ``finish``, for a role or a
        text that the bundle does not take.
        """
        with self._take("ask"):
            if self._finished:
                raise UsageError("ask: this stream is finished; start another with model.stream()")
            for name, value in (("text", text), ("role", role)):
                if not isinstance(value, str):
                    raise UsageError(f"{name}: {quoted(value)}, a str is needed; give one")
                check_text(name, value)
            turn = self._answerer.turn(role, text)
            with self._taken("ask"):
                self._work.queue.ask(Asked(turn, self._gate.position_samples), first=role == "tool")
        return self.events()

    def finish(self) -> Iterator[Event]:
        """End the input and return ``events()``, what is still to come; a second call takes nothing."""
        with self._take("finish"):
            if not self._finished:
                with self._taken("finish"):
                    self._queue(self._resampler.finish())
                    with self._take_trace.span(GATE, 0):
                        decisions = self._gate.finish()
                    self._work.put(*joined(decisions))
                    self._finished = True  # last: another thread may ask whether all of it is done
        return self.events()

    def events(self) -> Iterator[Event]:
        """Work until nothing is pending, and yield each event once, in order.

        It owns no work: leaving it early loses nothing, and another ``events()`` goes on where it was left. An error
        in the work is raised once, after the events that came before it. Of a stream that has failed or is closed:
        what was made before.
        """
        while self.pending:
            yield from self._work_once("events", at_most=1)

    def step(self) -> list[Event]:
        """Do one bounded piece of work and return the events it made, often none.

        A piece is a chunk heard, a token with its frame of codes, a step of a solver, a piece of sound. Raises
        UsageError where another thread works or the stream has failed; an error in the work comes with the next call
        if this one returns events.
        """
        return self._work_once("step")

    def _work_once(self, what: str, at_most: int | None = None) -> list[Event]:
        """Work once, unless events wait already; return ``at_most`` of these, or raise the error that came after."""
        if not self._working.acquire(blocking=False):
            raise UsageError(f"{what}: another thread works on this stream; let one at a time read its events")
        try:
            made = self._work.made
            if not made and self._error is None:
                self._check_unfailed(what)
                if not self._closing:
                    self._advance()
            if not made and self._error is not None:
                error, self._error = self._error, None
                raise error
            return [made.popleft() for _ in range(min(len(made), at_most or len(made)))]
        finally:
            self._working.release()
            self._shut_if_closing()

    def _advance(self) -> None:
        try:
            self._work.step()
        except BaseException as error:
            self._failed = f"a step was ended by {type(error).__name__}"
            if not isinstance(error, Exception):
                raise
            self._error = error  # raised after the events that were made before it

    @property
    def pending(self) -> bool:
        """Whether ``step`` has something to do or to hand out: events, an error, or work."""
        return bool(self._work.made) or self._error is not None or (self._whole and self._work.waits)

    @property
    def done(self) -> bool:
        """Whether nothing will come any more: finished, closed or failed, and nothing pending."""
        return (self._finished or not self._whole) and not self.pending

    @property
    def talking(self) -> bool:
        """Whether the user talks, as of the last push: the Gate is open, after Provisional too. Ahead of the events."""
        return self._gate.is_open

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that counts, taken and not heard yet."""
        heard = self._work.heard_samples  # read first: who works may hear what is put in meanwhile
        return (self._work.queued_samples - heard) / self._rate if self._whole else 0.0

    @property
    def waiting_questions(self) -> int:
        """Turns in text that were asked and are not begun yet."""
        return self._work.queue.questions if self._whole else 0

    @property
    def hushed(self) -> bool:
        """Whether answers are not spoken, for now: set, it stops the voice within a step, of this answer to its end."""
        return self._work.reply.hushed

    @hushed.setter
    def hushed(self, hushed: bool) -> None:
        self._work.reply.hushed = hushed

    @property
    def answering(self) -> int | None:
        """The number of the answer that is being written or spoken, None if there is none."""
        return self._work.answering

    @property
    def converses(self) -> bool:
        """Whether this bundle answers, so that it can be asked and interrupted; else it writes down every word."""
        return self._answerer.converses

    def interrupt(self, answer: int, heard_s: float | None = None) -> None:
        """End an answer, by the number of its events, at the next step; if it is whole already, shorten it.

        heard_s: seconds of its sound that were heard; the conversation keeps what they say: cut at their tokens where
        speech codes stand among these, else by their share of the text. None: all that was written. ``Interrupted``
        tells what is kept. Once a later turn follows the answer, nothing happens. Raises UsageError for a bundle that
        writes down what it hears: no word of that is dropped.
        """
        if not isinstance(answer, int) or isinstance(answer, bool):
            raise UsageError(f"answer: {quoted(answer)}, the number of an answer is needed; its events carry it")
        check_heard(heard_s)
        if not self.converses:
            raise UsageError("interrupt: this bundle writes down speech, and no word of it is dropped; leave it out")
        self._check_whole("interrupt")
        self._work.interrupt(answer, heard_s)

    def beside(self, played: Played) -> None:
        """Tell what a loudspeaker plays beside the sound that is pushed: it is not taken for the user."""
        self._gate.played = played

    def close(self) -> None:
        """End the stream, when the step under way ends: work that waits is dropped, events already made can be read."""
        self._closing = True
        self._shut_if_closing()

    def __enter__(self) -> "Stream":  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pending = self.pending
        self.close()
        if kind is None and pending:
            message = "stream closed with unread work; read stream.finish() or stream.events() to its end before"
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        state = "failed" if self._failed else "closed" if self._closing else "finished" if self._finished else "open"
        seconds = {"received_s": round(self._received / self._rate, 3), "waiting_s": round(self.waiting_s, 3)}
        return line(self, bundle=self._name, state=state, **seconds)

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the front end, at which samples are counted."""
        return self._rate

    @property
    def level(self) -> ComputeLevel:
        """The ComputeLevel in use; ``skip``, if the bundle has it and none is pinned, while the Gate is closed."""
        return self._work.levels.current if self.talking or self._work.waits else self._work.levels.resting

    @property
    def speech_probability(self) -> float:
        """The Gate's last score."""
        return self._gate.probability

    @property
    def samples_received(self) -> int:
        """Samples taken, after resampling."""
        return self._received

    @property
    def samples_heard(self) -> int:
        """Samples that went to the listener."""
        return self._work.heard_samples

    @property
    def samples_heard_again(self) -> int:
        """Samples that the listener heard once more, where speech went on for longer than it hears at once."""
        return self._work.heard_again

    @property
    def samples_gated(self) -> int:
        """Samples that the Gate held back for good."""
        return self._gate.gated_samples

    @property
    def samples_waiting(self) -> int:
        """Samples taken and neither heard nor gated yet."""
        return self._outstanding() if self._whole else 0

    @property
    def samples_abandoned(self) -> int:
        """Samples that were waiting when the stream was closed or failed."""
        return 0 if self._whole else self._outstanding()

    @property
    def frames_received(self) -> int:
        """Mel frames that an encoder without a Gate would have had to compute."""
        return self._received // self._hop

    @property
    def frames_computed(self) -> int:
        """Mel frames that went through the encoder."""
        return self._listener.frames_computed

    @property
    def trace(self) -> Trace:
        """Every span of taking and working so far, in order of completion; a new Trace each time."""
        spans = sorted([*self._take_trace.spans, *self._work_trace.spans], key=lambda span: span.start_s + span.seconds)
        return Trace(self._work_trace.clock, spans, self._work_trace.limit)

    def measure(self, *, clock: Clock | None = None, limit: int | None = None) -> None:
        """Time takes and steps with another ``clock``; keep up to ``limit`` spans of each. Before the first push."""
        for trace in (self._take_trace, self._work_trace):
            trace.clock, trace.limit = clock or trace.clock, trace.limit if limit is None else limit

    def mark(self) -> WorkMark:
        """Return where the turn stands; see ``Work.mark``. For who works, between two items."""
        return self._work.mark()

    def back(self, mark: WorkMark) -> None:
        """Go back to a mark of this turn; see ``Work.back``. For who works, between two steps."""
        self._work.back(mark)

    @property
    def _whole(self) -> bool:
        return not self._failed and not self._closed

    def _outstanding(self) -> int:
        settled = self._work.heard_samples + self._gate.gated_samples  # first: no thread makes the account negative
        return self._received - settled

    @contextmanager
    def _take(self, what: str) -> Iterator[None]:
        if not self._taking.acquire(blocking=False):
            raise UsageError(f"{what}: another thread pushes, asks or finishes; let one at a time do so")
        try:
            self._check_whole(what)
            yield
        finally:
            self._taking.release()

    @contextmanager
    def _taken(self, what: str) -> Iterator[None]:
        """Leave the stream failed where the body, which changes it, does not end."""
        try:
            yield
        except BaseException as error:
            self._failed = f"{what} was ended by {type(error).__name__}"
            raise

    def _check_unfailed(self, what: str) -> None:
        if self._failed:
            raise UsageError(f"{what}: this stream has failed ({self._failed}); start another with model.stream()")

    def _check_whole(self, what: str) -> None:
        self._check_unfailed(what)
        if self._closing:
            raise UsageError(f"{what}: this stream is closed; start another with model.stream()")

    def _shut_if_closing(self) -> None:
        """Drop the work of a stream that is to close, unless a thread is at it, which will do so itself."""
        while self._closing and not self._closed and self._working.acquire(blocking=False):
            try:
                self._work.stop()
                self._closed = True
            finally:
                self._working.release()

    def _queue(self, sound: Array) -> None:
        self._received += len(sound)  # before any of it is gated: what is outstanding is never negative
        with self._take_trace.span(GATE, len(sound)):
            decisions = self._gate.push(sound)
        self._work.put(*joined(decisions))

    def _check_room(self, sound: Array) -> None:
        """Raise UsageError if more than MOST_WAITING_S of sound that counts would wait, as far as is known before."""
        waiting_s = self.waiting_s + self._gate.pending_samples / self._rate
        if waiting_s + len(sound) / self.options.sample_rate_hz <= MOST_WAITING_S:
            return
        resampler = Resampler(self.options.sample_rate_hz, self.options.channels, "", rate_out=self._rate)
        waiting_s = self.waiting_s + counting(self._fresh_gate(), resampler, sound) / self._rate
        if waiting_s > MOST_WAITING_S:
            raise UsageError(
                f"push: {waiting_s:.1f} s of sound would wait, at most {MOST_WAITING_S:.0f} s may; "
                "read stream.events() in between, or use model.transcribe for a whole recording"
            )
