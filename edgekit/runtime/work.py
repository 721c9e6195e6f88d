"""Work: the side of a stream that hears, writes and speaks, one bounded piece after another.

    queue of items -> Listener (log-mel, encoder, adapter) -> Answerer (backbone) -> Reply -> events

Who takes (``stream.py``) puts items into the queue; who works takes them out, from another thread if need be. Knows
samples of the front end's rate, items and levels; knows nothing of the caller's rate, of gates or of locks.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import Any

from edgekit.runtime.answer.early.partials import Partials, SoFar
from edgekit.runtime.answer.early.provisional import Pause, Task
from edgekit.runtime.answer.reply import About, Interruptions, Reply
from edgekit.runtime.assemble import Parts, find_level, working_levels
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Event, Forgot, Lag, LevelChanged, SpeechStarted, SpeechStopped, Text
from edgekit.runtime.hear.gate import Closed, Opened, Paused, Resumed, Sound
from edgekit.runtime.hear.items import Asked, Item, Lost, Queue
from edgekit.runtime.hear.listener import ListenerMark
from edgekit.runtime.hear.piece import Piece, PieceMark, quietest
from edgekit.runtime.hear.timeline import AnswerSound, Timeline
from edgekit.runtime.loading import Loaded
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.policy import Levels, WorkKind
from edgekit.spans import PREPARE
from edgekit.timing import Stopwatch, Trace

# A full piece of a model that writes no times is cut in these last seconds of it. Both sides hear so much of the other,
# so that each word is heard whole by one of them.
_LAST_S, _SHARED_S = 5.0, 0.8


_Place = Generator[Event | None, None, int | None]  # returns a sample


@dataclass(frozen=True, slots=True, eq=False)
class WorkMark:
    """Where the work stood between two items; see ``Work.mark``."""

    answer: int  # each turn has one
    listener: ListenerMark
    answerer: object
    reply: object
    partials: Partials
    turn_open: bool
    piece: PieceMark
    sound: tuple[int, bool]


class Work:
    """The working side of one stream. ``step`` belongs to one thread at a time; ``put``, ``queue`` and ``interrupt`` to
    any other.

    ``made``: events not handed out yet. ``queued_samples`` and ``heard_samples``: sound that counts, put in and taken
    out; ``heard_again``: heard once more. ``reply``: what writes and speaks answers. ``lag_ms``: of the newest sound,
    None where nothing is live. ``levels``: of all work.
    """

    def __init__(self, loaded: Loaded, options: StreamOptions, parts: Parts, trace: Trace) -> None:
        """Raise UsageError for a level that the bundle does not have."""
        manifest = loaded.manifest
        self.made: deque[Event] = deque()
        self.queued_samples = 0  # who puts writes it, who works reads it
        self.heard_samples = 0  # the other way round
        self.heard_again = 0
        self.lag_ms: float | None = None
        self._rate = manifest.front_end.sample_rate_hz
        self._listener, self._answerer = parts.listener, parts.answerer
        self._tokenizer, self._trace = loaded.tokenizer, trace
        self._interruptions = Interruptions()
        self.reply = Reply(
            parts.answerer, loaded.tokenizer, manifest.protocol, parts.speaker, trace, interruption=self._interruption
        )
        self._partials = Partials.of(manifest, loaded.tokenizer, options.partials)
        working = working_levels(manifest.levels)
        pinned = None if options.level is None else find_level(working, options.level)
        self.levels = Levels(manifest.levels, working, pinned, options.budget)
        self.queue = Queue()
        self._task: Task | None = None
        self._pause = Pause(parts.ending, self.back, writes=parts.dictates)  # that may be the end
        self._unheard = 0  # samples of the item under way
        self._held_until = 0  # of ``heard_samples``: up to there sound is late because it was held back
        self._worked = Stopwatch(trace)  # in steps
        self._turn_open = False  # sound of an utterance was heard that is not over
        self._time = Timeline(self._rate)
        self._piece = Piece()  # what the Listener heard since it last finished
        longest = manifest.grid.max_frames * manifest.front_end.hop_samples
        self._last = round(_LAST_S * self._rate)
        self._shared = round(_SHARED_S * self._rate) if parts.answerer.aligns else 0
        goes_on = parts.answerer.converses or parts.answerer.resumes
        self._cuts = not goes_on and longest >= 2 * self._last
        # In the last seconds before a full piece nothing more stands: the next answer may have its words.
        self._open = self._last if not parts.answerer.converses and longest >= 2 * self._last else 0
        self._sound = AnswerSound(self._time, self._rate)  # of the next answer
        self._answer = 0  # number of the latest answer, or of the one to come
        self._answering: int | None = None

    @property
    def answering(self) -> int | None:
        """The number of the answer that is being written or spoken; none is while it may be withdrawn."""
        return None if self._pause.on else self._answering

    @property
    def waits(self) -> bool:
        """Whether there is work to do."""
        due = self._pause.works if self._pause.on else self._interruptions
        return bool(self._task or due or self.queue.waits(turn_open=self._turn_open))

    def put(self, *items: Item) -> None:
        """Append items to the queue."""
        for item in items:
            if isinstance(item, Sound):
                self.queued_samples += len(item.samples)
            self.queue.put(item)

    def interrupt(self, answer: int, heard_s: float | None) -> None:
        """End an answer at the next step, or shorten it if it is whole and the latest turn."""
        self._interruptions.put(answer, heard_s)

    def step(self) -> None:
        """Do one bounded piece of work; what it makes is appended to ``made`` as it comes."""
        with self._worked:
            task = self._task = self._task or self._next_task()
            if task is None:
                return
            for event in task:
                if event is None:
                    return
                self.made.append(event)
            self._task = None

    def stop(self) -> None:
        """Drop all work that waits or is under way."""
        self._drop_task()
        self.queue.clear()
        self._interruptions.clear()

    def mark(self) -> WorkMark:
        """Return where the turn stands, between two items; good until its next piece begins, as at its end one may."""
        assert self._task is None, "a mark is made between two items"
        assert not self._pause.on, "a mark is made between two items"
        return WorkMark(
            self._answer, self._listener.mark(), self._answerer.mark(), self.reply.mark(), copy(self._partials),
            self._turn_open, self._piece.mark(), (self._sound.own_start, self._sound.resumed),
        )  # fmt: skip

    def back(self, mark: WorkMark) -> None:
        """Go back to a mark at any step: what was heard since is forgotten, an answer is dropped unremembered.

        What goes on is bit for bit what it would have been. Work that was done stays counted: samples, frames, spans,
        costs, levels; events that were made stay made.
        """
        assert mark.answer == self._answer, "a mark dies with its turn"
        self._drop_task()
        self.heard_samples, self._unheard = self.heard_samples + self._unheard, 0  # they wait no more
        self._listener.back(mark.listener)
        self._answerer.back(mark.answerer)
        self.reply.back(mark.reply)  # type: ignore[arg-type]  # its own
        self._partials = copy(mark.partials)
        self._turn_open, (self._sound.own_start, self._sound.resumed) = mark.turn_open, mark.sound
        self._piece.back(mark.piece)

    def _drop_task(self) -> None:
        if self._task is not None:
            self._task.close()
        self._pause.drop()
        self._task = self._answering = None

    def _next_task(self) -> Task | None:
        if self._interruptions and not self._pause.on:
            return self._shorten(*self._interruptions.next())
        if (task := self._pause.next(self.queue)) is not None:
            return task
        item = self.queue.next(turn_open=self._turn_open)
        if isinstance(item, Paused) and self.queue.ahead() is None:
            return self._pause.begin(item, self._end_piece(item.end_sample), self.mark(), self._time.seconds)
        return None if item is None else self._work_on(item)

    def _work_on(self, item: Item) -> Task:
        match item:
            case Opened(at_sample):
                self._turn_open = True
                self._time.settle(at_sample)
                yield SpeechStarted(self._time.seconds(at_sample))
                self._piece.begin(at_sample)
                yield from self._begin_answer(at_sample)
            case Sound(samples, sounding):
                yield from self._hear(samples, sounding=sounding)
            case Closed(end_sample, decided_sample):
                yield SpeechStopped(self._time.seconds(end_sample), self._time.seconds(decided_sample))
                yield from self._pause.confirm(hushed=self.reply.hushed) or self._end_piece(end_sample)
                self._turn_open = False
            case Lost():
                self._time.lose(item.at_sample, item.lost_s)
                if not self._turn_open:
                    self._time.settle(item.settled)
                yield Lag(item.dropped_samples, item.at_s)
            case Asked(turn, at_sample):
                yield from self._answer_text(turn, at_sample)
            case _:
                if isinstance(item, Resumed):
                    self._held_until = self.heard_samples + item.held_samples
                yield from self._pause.hear(item, self._time.seconds)

    def _shorten(self, answer: int, heard_s: float) -> Task:
        """Shorten an answer that is whole, if it is the latest turn; see ``interrupt``."""
        if answer == self._answer and (event := self.reply.shorten(heard_s)) is not None:
            yield event

    def _interruption(self, answer: int) -> float | None:
        """Return the seconds that were heard of an answer that is to end, None if it is not, or not yet."""
        return None if self._pause.on else self._interruptions.take(answer)

    def _hear(self, samples: Array, *, sounding: bool) -> Task:
        """Pass sound on; where the Grid's longest piece is full, the next one begins."""
        self._unheard = len(samples)
        while len(samples):
            if self._listener.room_samples <= 0:
                yield from self._next_piece()
            size = min(self._listener.room_samples, self._partials.chunk_samples)
            taken, samples = samples[:size], samples[size:]
            self.heard_samples, self._unheard = self.heard_samples + len(taken), len(samples)
            yield from self._listen(taken, sounding=sounding)

    def _listen(self, taken: Array, *, sounding: bool = True, partials: bool = True) -> Task:
        piece = self._piece
        if sounding:
            self._partials.hear(piece.end, piece.end + len(taken))
        if self._cuts and piece.before is None and self._listener.room_samples - len(taken) < self._last:
            piece.set_before(self._listener.mark(), self._answerer.mark())
        piece.append(taken)
        for heard in self._listener.push(taken):
            yield from self._tell(heard)
            if partials and self._partials.kind:
                yield from self._partial()
            with self._trace.span(PREPARE):
                self._answerer.prepare()
            yield None

    def _next_piece(self) -> Task:
        """Go on behind a full piece: right there, or with the sound whose words its answer leaves to the next one."""
        heard, end = self._piece.mark(), self._piece.end
        cut = yield from self._cut()
        yield from self._finish_piece()
        if self._answerer.next_piece():
            self._piece.begin(end)
            return
        again = yield from self._answer_sound(cut, full=True)
        if again is not None or cut == end:
            yield from self._go_on(heard, end if again is None else again)
        else:
            yield from self._go_on(heard, cut - self._shared, own_start=cut)

    def _end_piece(self, end_sample: int) -> Task:
        """Answer the last piece, and what its answer leaves of it."""
        while True:
            heard = self._piece.mark()
            yield from self._finish_piece()
            again = yield from self._answer_sound(end_sample)
            if again is None:
                return
            yield from self._pause.until_confirmed()
            yield from self._go_on(heard, again)

    def _go_on(self, heard: PieceMark, again: int, *, own_start: int | None = None) -> Task:
        """Begin the next piece with the sound from sample ``again`` on, of the one that was heard."""
        rest, chunk = heard.samples()[again - heard.start :], self._partials.chunk_samples
        self._piece.begin(again)
        yield from self._begin_answer(again)
        self._sound.resume(again if own_start is None else own_start)
        self.heard_again += len(rest)
        for at in range(0, len(rest), chunk):
            yield from self._listen(rest[at : at + chunk])

    def _cut(self) -> Generator[Event | None, None, int]:
        """Return the sample where a full piece is to be cut, and hear no more than that of it; its end if nowhere."""
        piece, start, before = self._piece, self._piece.start, self._piece.before
        if before is None:
            return piece.end
        sound = piece.mark().samples()
        earliest = len(sound) - self._last
        cut = start + earliest + quietest(sound[earliest : len(sound) - self._shared], self._rate)
        self._listener.back(before.listener)
        self._answerer.back(before.answerer)
        piece.go_back()
        last = sound[piece.end - start : cut + self._shared - start]
        self.heard_again += len(last)
        yield from self._listen(last, partials=False)
        return cut

    def _finish_piece(self) -> Task:
        for heard in self._listener.finish():
            yield from self._tell(heard)
            yield None

    def _tell(self, heard: Array) -> Task:
        """Tell the answerer; where its context is full, answer what it knows, begin the next answer with the rest."""
        first, last = self._listener.chunk_samples
        total = len(heard)
        rest = yield from self._hear_at_level(heard)
        while rest is not None:
            yield from self._pause.until_confirmed()
            told = total - len(rest)
            cut = min(self._piece.end, self._piece.start + first + (last - first) * told // total)
            yield from self._answer_sound(cut, part=True)
            yield from self._begin_answer(cut)
            rest = yield from self._hear_at_level(rest)

    def _hear_at_level(self, heard: Array) -> Generator[Event | None, None, Array | None]:
        yield from self._choose_level("hear")
        begun_s = self._worked.seconds
        rest = self._answerer.hear(heard, self.levels.current)
        self._measured("hear", begun_s)
        return rest

    def _begin_answer(self, at_sample: int) -> Task:
        yield from self._choose_level("hear")
        self.reply.forget()
        forgotten = self._answerer.open(self.levels.current)
        if forgotten:
            yield Forgot(forgotten, self._time.seconds(at_sample))
        self._sound.begin(at_sample)
        self._answer += 1
        self._partials.open(at_sample)

    def _partial(self) -> Iterator[Event]:
        """Yield the text of all that was heard so far, if there is time for it and it differs from the last."""
        sound, end_sample = self._sound, min(self._piece.end, self._piece.start + self._listener.chunk_samples[1])
        if end_sample <= sound.own_start or self._piece.silent or not self._partials.due(end_sample, self._lag()):
            return
        begun_s = self._worked.seconds
        bounds = self._time.seconds(sound.own_start), self._time.seconds(end_sample)
        heard = SoFar(self._answer, *bounds, sound.seconds(sound.own_start), sound.seconds(end_sample), end_sample)
        grows = self._listener.room_samples >= self._open
        text = self._partials.text(self._answerer, self.levels.current, heard, grows=grows)
        self._partials.cost_ms = (self._worked.seconds - begun_s) * 1000
        if text is not None:
            yield text

    def _answer_sound(self, end_sample: int, *, full: bool = False, part: bool = False) -> _Place:
        """Yield the reply to what was heard since the last one; nothing if no sound came.

        Return the sample from where the rest of it is to be heard again, if so.
        """
        sound, heard_end = self._sound, self._piece.end if full else end_sample
        if end_sample <= sound.own_start:  # the longest piece was full in the silence before the Gate closed
            return None
        own = sound.own(end_sample, heard_end, full=full)
        heard = {"full": full, "own": own, "silence": self._piece.silent, "part": part, "resumed": sound.resumed}
        yield from self._reply_to(self._about(end_sample, sound.seconds(heard_end), **heard))
        resume_s = self._answerer.outcome.resume_s
        return None if resume_s is None else min(sound.sample(resume_s), heard_end)

    def _answer_text(self, turn: Sequence[int], at_sample: int) -> Task:
        """Yield the reply to a turn in text."""
        at_sample = max(at_sample, self._piece.end)
        self._piece.begin(at_sample)
        yield from self._begin_answer(at_sample)
        if forgotten := self._answerer.tell(turn, self.levels.current):
            yield Forgot(forgotten, self._time.seconds(at_sample))
        yield None
        yield from self._reply_to(self._about(at_sample, None))

    def _about(self, end_sample: int, heard_s: float | None, **heard: Any) -> About:  # noqa: ANN401 - fields of About
        bounds = self._time.seconds(self._sound.own_start), self._time.seconds(end_sample)
        return About(self._answer, *bounds, heard_s, self._partials.known, self._sound.time_s, **heard)

    def _reply_to(self, about: About) -> Task:
        yield from self._choose_level("answer")
        begun_s = self._worked.seconds
        self._answering = self._answer
        with closing(self.reply.events(self.levels.current, about)) as reply:
            for event in reply:
                if isinstance(event, Text) and event.final:  # what is still to be spoken is no part of its cost
                    self._measured("answer", begun_s)
                yield event
        self._answering = None

    def _choose_level(self, work: WorkKind) -> Iterator[LevelChanged]:
        """Ask the Policy before work that the level changes: one that attends by a cross-KV hears for nothing."""
        if work == "hear" and not self._answerer.converses and self.lag_ms is not None:
            return
        if self.levels.choose(work, None if self.lag_ms is None else self._lag(self._held_until)):
            yield LevelChanged(self.levels.current.name, self._time.seconds(self._piece.end))

    def _lag(self, held_until: int = 0) -> float:
        """Return how late the present chunk is, in ms: the newest sound's lag, and that taken behind ``held_until``."""
        if self.lag_ms is None:
            return 0.0
        return self.lag_ms + (self.queued_samples - max(self.heard_samples, held_until)) * 1000 / self._rate

    def _measured(self, work: WorkKind, begun_s: float) -> None:
        self.levels.measured(work, (self._worked.seconds - begun_s) * 1000)
