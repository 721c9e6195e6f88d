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
from typing import Literal

from edgekit.bundle import ComputeLevel
from edgekit.runtime.answer.partials import Partials
from edgekit.runtime.answer.reply import About, Reply
from edgekit.runtime.answer.text import UNFINISHED
from edgekit.runtime.assemble import Parts, find_level, working_levels
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Event, Forgot, Lag, LevelChanged, SpeechStarted, SpeechStopped, Text
from edgekit.runtime.hear.gate import Closed, Opened, Sound
from edgekit.runtime.hear.listener import ListenerMark
from edgekit.runtime.hear.timeline import Timeline
from edgekit.runtime.loading import Loaded
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.policy import SKIP, Budget, Costs, Observation, choose
from edgekit.spans import PREPARE
from edgekit.timing import Trace

_Kind = Literal["hear", "answer"]
_ALL = -1.0  # seconds of an answer's sound: as much as there is


@dataclass(frozen=True, slots=True)
class Lost:
    """The caller dropped samples: ``lost_s`` seconds before sample ``at_sample`` of the stream, at stream time at_s.

    ``settled``: no later item names a sample before this one.
    """

    at_sample: int
    settled: int
    lost_s: float
    dropped_samples: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn in text, its tokens; ``at_sample``: of the stream, when it was asked."""

    turn: Sequence[int]
    at_sample: int


Item = Opened | Sound | Closed | Lost | Asked
_Task = Generator[Event | None, None, None]


@dataclass(frozen=True, slots=True, eq=False)
class WorkMark:
    """Where the work stood between two items; see ``Work.mark``."""

    answer: int  # each turn has one
    listener: ListenerMark
    answerer: object
    reply: object
    partials: Partials
    turn_open: bool
    piece_start: int
    piece_end: int


class Work:
    """The working side of one stream. ``step`` belongs to one thread at a time; ``put``, ``ask`` and ``interrupt`` to
    any other.

    ``made``: events not handed out yet. ``queued_samples`` and ``heard_samples``: sound that counts, put in and taken
    out. ``reply``: what writes and speaks answers. ``lag_ms``: of the newest sound, None where nothing is live.
    ``level``: in use while there is sound.
    """

    def __init__(self, loaded: Loaded, options: StreamOptions, parts: Parts, trace: Trace) -> None:
        """Raise UsageError for a level that the bundle does not have."""
        manifest = loaded.manifest
        self.made: deque[Event] = deque()
        self.queued_samples = 0  # who puts writes it, who works reads it
        self.heard_samples = 0  # the other way round
        self.lag_ms: float | None = None
        self.answering: int | None = None
        self._manifest, self._partial_texts = manifest, options.partials
        self._rate = manifest.front_end.sample_rate_hz
        self._listener, self._answerer = parts.listener, parts.answerer
        self._tokenizer, self._trace = loaded.tokenizer, trace
        self.reply = Reply(
            parts.answerer,
            loaded.tokenizer,
            manifest.protocol,
            parts.speaker,
            trace,
            interruption=self._take_interruption,
        )
        self._partials = Partials(self._rate, manifest.grid.chunk_frames * manifest.front_end.hop_samples)
        self._budget = options.budget or Budget()
        working = working_levels(manifest.levels)
        self._pinned = None if options.level is None else find_level(working, options.level)
        self.level = self._working = self._pinned or working[-1]
        self._costs: dict[_Kind, Costs] = {"hear": Costs(manifest.levels), "answer": Costs(manifest.levels)}
        self._items: deque[Item] = deque()
        self._tools: deque[Asked] = deque()  # before sound that waits
        self._deferred: deque[Asked] = deque()  # asked while the user talked
        self._interruptions: deque[tuple[int, float]] = deque()
        self._task: _Task | None = None
        self._unheard = 0  # samples of the item under way
        self._worked_s, self._begun_s = 0.0, 0.0  # in steps that ended; when this one began
        self._turn_open = False  # sound of an utterance was heard that is not over
        self._time = Timeline(self._rate)
        self._piece_start = self._piece_end = 0  # samples: what the Listener heard since it last finished
        self._answer_start = 0  # sample where the sound of the next answer began
        self._answer = 0  # number of the latest answer, or of the one to come

    @property
    def resting_level(self) -> ComputeLevel:
        """The level while the Gate is closed: ``skip``, if the bundle has it and none is pinned."""
        skip = [level for level in self._manifest.levels if level.name == SKIP]
        return skip[0] if skip and self._pinned is None else self._working

    @property
    def waits(self) -> bool:
        """Whether there is work to do."""
        asked = not self._turn_open and (self._tools or self._deferred)
        return bool(self._task or self._items or self._interruptions or asked)

    def put(self, item: Item) -> None:
        """Append an item to the queue."""
        if isinstance(item, Sound):
            self.queued_samples += len(item.samples)
        self._items.append(item)

    def ask(self, item: Asked, *, first: bool) -> None:
        """Put in a turn in text, to be answered after the present one; ``first``: before sound that waits."""
        (self._tools if first else self._items).append(item)

    def interrupt(self, answer: int, heard_s: float | None) -> None:
        """End an answer at the next step, or shorten it if it is whole and the latest turn."""
        self._interruptions.append((answer, _ALL if heard_s is None else heard_s))

    def step(self) -> None:
        """Do one bounded piece of work; what it makes is appended to ``made`` as it comes."""
        clock = self._trace.clock
        self._begun_s = clock()
        try:
            task = self._task = self._task or self._next_task()
            if task is None:
                return
            for event in task:
                if event is None:
                    return
                self.made.append(event)
            self._task = None
        finally:
            self._worked_s += clock() - self._begun_s
            self._begun_s = 0.0

    def stop(self) -> None:
        """Drop all work that waits or is under way."""
        if self._task is not None:
            self._task.close()
        self._task, self.answering = None, None
        for waiting in (self._items, self._tools, self._deferred, self._interruptions):
            waiting.clear()

    def mark(self) -> WorkMark:
        """Return where the turn stands, between two items: no piece of work may be under way.

        A mark is good until its turn is over and the next begins, or the next piece of a longer utterance.
        """
        assert self._task is None, "a mark is made between two items"
        return WorkMark(
            answer=self._answer, listener=self._listener.mark(), answerer=self._answerer.mark(),
            reply=self.reply.mark(), partials=copy(self._partials), turn_open=self._turn_open,
            piece_start=self._piece_start, piece_end=self._piece_end,
        )  # fmt: skip

    def back(self, mark: WorkMark) -> None:
        """Go back to a mark at any step: what was heard since is forgotten, an answer is dropped unremembered.

        What goes on is bit for bit what it would have been. Work that was done stays counted: samples, frames, spans,
        costs, levels; events that were made stay made.
        """
        assert mark.answer == self._answer, "a mark dies with its turn"
        if self._task is not None:
            self._task.close()
        self._task, self.answering = None, None
        self.heard_samples, self._unheard = self.heard_samples + self._unheard, 0  # they wait no more
        self._listener.back(mark.listener)
        self._answerer.back(mark.answerer)
        self.reply.back(mark.reply)  # type: ignore[arg-type]  # its own
        self._partials = copy(mark.partials)
        self._turn_open, self._piece_start, self._piece_end = mark.turn_open, mark.piece_start, mark.piece_end

    def _next_task(self) -> _Task | None:
        if self._interruptions:
            return self._shorten(*self._interruptions.popleft())
        item = self._next_item()
        return None if item is None else self._work_on(item)

    def _next_item(self) -> Item | None:
        for asked in (self._tools, self._deferred):
            if asked and not self._turn_open:
                return asked.popleft()
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Asked) and self._turn_open:  # its turn comes after what the user is saying
                self._deferred.append(item)
                continue
            return item
        return None

    def _work_on(self, item: Item) -> _Task:
        match item:
            case Opened(at_sample):
                self._turn_open = True
                self._time.settle(at_sample)
                yield SpeechStarted(self._time.seconds(at_sample))
                self._piece_start = self._piece_end = at_sample
                yield from self._begin_answer(at_sample)
            case Sound(samples, sounding):
                yield from self._hear(samples, sounding=sounding)
            case Closed(end_sample, decided_sample):
                yield SpeechStopped(self._time.seconds(end_sample), self._time.seconds(decided_sample))
                yield from self._finish_piece()
                yield from self._answer_sound(end_sample)
                self._turn_open = False
            case Lost():
                self._time.lose(item.at_sample, item.lost_s)
                if not self._turn_open:
                    self._time.settle(item.settled)
                yield Lag(item.dropped_samples, item.at_s)
            case Asked(turn, at_sample):
                yield from self._answer_text(turn, at_sample)

    def _shorten(self, answer: int, heard_s: float) -> _Task:
        """Shorten an answer that is whole, if it is the latest turn; see ``interrupt``."""
        if answer == self._answer and (event := self.reply.shorten(heard_s)) is not None:
            yield event

    def _take_interruption(self, answer: int) -> float | None:
        """Return the seconds that were heard of an answer that is to end, None if it is not."""
        while self._interruptions:
            named, heard_s = self._interruptions.popleft()
            if named == answer:
                return heard_s
        return None

    def _hear(self, samples: Array, *, sounding: bool) -> _Task:
        """Pass sound on; where the Grid's longest piece is full, the next begins with the very next sample."""
        self._unheard = len(samples)
        while len(samples):
            if self._listener.room_samples <= 0:
                yield from self._next_piece()
            size = min(self._listener.room_samples, self._partials.chunk_samples)
            taken, samples = samples[:size], samples[size:]
            if sounding:
                self._partials.hear(self._piece_end, self._piece_end + len(taken))
            self._piece_end += len(taken)
            self.heard_samples, self._unheard = self.heard_samples + len(taken), len(samples)
            for heard in self._listener.push(taken):
                yield from self._tell(heard)
                if self._partial_texts:
                    yield from self._partial()
                with self._trace.span(PREPARE):
                    self._answerer.prepare()
                yield None

    def _next_piece(self) -> _Task:
        yield from self._finish_piece()
        self._piece_start = self._piece_end
        if not self._answerer.next_piece():
            yield from self._answer_sound(self._piece_end)
            yield from self._begin_answer(self._piece_end)

    def _finish_piece(self) -> _Task:
        for heard in self._listener.finish():
            yield from self._tell(heard)
            yield None

    def _tell(self, heard: Array) -> _Task:
        """Tell the answerer; where its context is full, answer what it knows, begin the next answer with the rest."""
        first, last = self._listener.chunk_samples
        total = len(heard)
        rest = yield from self._hear_at_level(heard)
        while rest is not None:
            told = total - len(rest)
            cut = min(self._piece_end, self._piece_start + first + (last - first) * told // total)
            yield from self._answer_sound(cut)
            yield from self._begin_answer(cut)
            rest = yield from self._hear_at_level(rest)

    def _hear_at_level(self, heard: Array) -> Generator[Event | None, None, Array | None]:
        yield from self._choose_level("hear")
        begun_s = self._work_s()
        rest = self._answerer.hear(heard, self.level)
        self._measured("hear", begun_s)
        return rest

    def _begin_answer(self, at_sample: int) -> _Task:
        yield from self._choose_level("hear")
        self.reply.forget()
        forgotten = self._answerer.open(self.level)
        if forgotten:
            yield Forgot(forgotten, self._time.seconds(at_sample))
        self._answer_start = at_sample
        self._answer += 1
        self._partials.open(at_sample)

    def _partial(self) -> Iterator[Event]:
        """Yield the text of all that was heard so far, if there is time for it and it differs from the last."""
        end_sample = min(self._piece_end, self._piece_start + self._listener.chunk_samples[1])
        if not self._partials.due(end_sample, self._lag()):
            return
        begun_s = self._work_s()
        heard_s = (end_sample - self._answer_start) / self._rate
        tokens = self._answerer.partial(self.level, heard_s, self._partials.max_steps(end_sample))
        text = self._tokenizer.decode(self.reply.without_loop(tokens)).rstrip(UNFINISHED).strip()
        stable = self._partials.write(text, end_sample, (self._work_s() - begun_s) * 1000)
        if stable is not None:
            bounds = self._time.seconds(self._answer_start), self._time.seconds(end_sample)
            language = self._answerer.language
            yield Text(text, False, *bounds, stable=stable, answer=self._answer, language=language)

    def _answer_sound(self, end_sample: int) -> _Task:
        """Yield the reply to what was heard since the last one; nothing if no sound came."""
        if end_sample <= self._answer_start:  # the longest piece was full in the silence before the Gate closed
            return
        yield from self._reply_to((end_sample - self._answer_start) / self._rate, end_sample)

    def _answer_text(self, turn: Sequence[int], at_sample: int) -> _Task:
        """Yield the reply to a turn in text."""
        at_sample = max(at_sample, self._piece_end)
        self._piece_start = self._piece_end = at_sample
        yield from self._begin_answer(at_sample)
        if forgotten := self._answerer.tell(turn, self.level):
            yield Forgot(forgotten, self._time.seconds(at_sample))
        yield None
        yield from self._reply_to(None, at_sample)

    def _reply_to(self, heard_s: float | None, end_sample: int) -> _Task:
        yield from self._choose_level("answer")
        begun_s = self._work_s()
        bounds = self._time.seconds(self._answer_start), self._time.seconds(end_sample)
        self.answering = self._answer
        about = About(self._answer, *bounds, heard_s, self._partials.shown)
        with closing(self.reply.events(self.level, about)) as reply:
            for event in reply:
                if isinstance(event, Text) and event.final:  # what is still to be spoken is no part of its cost
                    self._measured("answer", begun_s)
                yield event
        self.answering = None

    def _choose_level(self, work: _Kind) -> Iterator[LevelChanged]:
        """Ask the Policy before work that the level changes: one that attends by a cross-KV hears for nothing."""
        if self._pinned is not None:
            return
        if self.lag_ms is None:  # nothing is live, so nothing is late
            self.level = working_levels(self._manifest.levels)[-1]
        elif work == "hear" and not self._answerer.converses:
            self.level = self._working
            return
        else:
            costs = self._costs[work]
            observation = Observation(sounding=True, lag_ms=self._lag())
            self.level = choose(self._manifest.levels, observation, self._budget, costs.ms)
            costs.decided(self.level)
        if self.level != self._working:
            self._working = self.level
            yield LevelChanged(self.level.name, self._time.seconds(self._piece_end))

    def _lag(self) -> float:
        """Return how late the present chunk is, in ms: the newest sound's lag, and the sound taken behind it."""
        if self.lag_ms is None:
            return 0.0
        return self.lag_ms + (self.queued_samples - self.heard_samples) * 1000 / self._rate

    def _work_s(self) -> float:
        """Return the time spent in steps so far, never between them."""
        return self._worked_s + (self._trace.clock() - self._begun_s)

    def _measured(self, work: _Kind, begun_s: float) -> None:
        self._costs[work].measured(self.level, (self._work_s() - begun_s) * 1000)
