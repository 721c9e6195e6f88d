"""Stream: push samples, get events. The heart of EdgeKit; read this first.

    samples -> Resampler -> Gate -> Listener (log-mel, encoder, adapter) -> Answerer (backbone) -> Text

Everything up to ``Answerer.hear`` happens while the user talks, on request drafts of the text too; the answer is
decoded when the Gate closes. All mutable state is here and in what a Stream owns; engines are shared. Every split of
the same input gives the same events, if the compute level is pinned, or the same lag reported and no deadline set; only
drafts come as time allows, and change no final text. Knows no files, microphones or threads.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from edgekit.bundle import ComputeLevel
from edgekit.errors import UsageError
from edgekit.runtime.answer.partials import Partials
from edgekit.runtime.answer.reply import Reply
from edgekit.runtime.answer.text import UNFINISHED
from edgekit.runtime.engine import Array
from edgekit.runtime.events import (
    Audio,
    AudioCut,
    Event,
    Forgot,
    Lag,
    LevelChanged,
    SpeechStarted,
    SpeechStopped,
    Text,
)
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Output, Sound
from edgekit.runtime.hear.listener import Listener
from edgekit.runtime.hear.resampler import Resampler
from edgekit.runtime.options import StreamOptions, find_level, gate_settings, make_decoder, make_mouth
from edgekit.runtime.policy import SKIP, Budget, Costs, Observation, choose
from edgekit.spans import GATE, PREPARE
from edgekit.timing import Trace

if TYPE_CHECKING:
    from edgekit.runtime.model import Model

_Work = Literal["hear", "answer"]
_INT16_SCALE = 32_768


class Stream:
    """One conversation: samples in, events out. Not for two threads at once; make one per speaker.

    Counters: ``samples_received`` of 16 kHz mono, ``samples_gated`` of them that no engine saw; ``frames_received`` of
    10 ms, ``frames_computed`` that went through the encoder (silence added at the end of an utterance included).
    """

    def __init__(self, model: "Model", options: StreamOptions) -> None:
        """Raise UsageError for an option that the bundle does not offer."""
        manifest = model.manifest
        self.options = options
        self.trace = Trace()
        self.samples_received = 0
        self._manifest = manifest
        self._rate = manifest.front_end.sample_rate_hz
        self._resampler = Resampler(options.sample_rate_hz, options.channels, rate_out=self._rate)
        self._gate = Gate(gate_settings(manifest.gate, options, manifest.protocol), self._rate)
        self._ear = Listener(manifest, model.engines["encoder"], model.engines["adapter"], self.trace)
        self._mouth = make_mouth(model, options, self.trace)
        self._decoder = make_decoder(model, options, self.trace, self._mouth)
        self._tokenizer = model.tokenizer
        self._reply = Reply(
            self._decoder, model.tokenizer, manifest.protocol, self._mouth, self.trace, hush=options.hush
        )
        self._drafts = Partials(self._rate, manifest.grid.chunk_frames * manifest.front_end.hop_samples)
        self._budget = options.budget or Budget()
        working = tuple(level for level in manifest.levels if level.name != SKIP)
        self._pinned = None if options.level is None else find_level(working, options.level)
        self._level = self._working = self._pinned or working[-1]  # in silence `_level` may be `skip`
        self._lag_ms = 0.0
        self._costs: dict[_Work, Costs] = {"hear": Costs(manifest.levels), "answer": Costs(manifest.levels)}
        self._pushed = 0  # samples at the caller's rate, dropped ones included
        self._drops: list[tuple[int, float]] = []  # (16 kHz sample, seconds lost before it)
        self._lost_s = 0.0  # seconds lost before any sample that an event may still name
        self._piece_start = self._piece_end = 0  # 16 kHz samples: what the Listener heard since it last finished
        self._answer_start = 0  # 16 kHz sample where the sound of the next answer began
        self._finished = False

    @property
    def level(self) -> ComputeLevel:
        """The ComputeLevel in use; ``skip``, if the bundle has it and none is pinned, while the Gate is closed."""
        return self._level

    @property
    def speech_probability(self) -> float:
        """The Gate's last score."""
        return self._gate.probability

    @property
    def samples_gated(self) -> int:
        """Samples that the Gate held back for good."""
        return self._gate.gated_samples

    @property
    def frames_received(self) -> int:
        """Mel frames that an encoder without a Gate would have had to compute."""
        return self.samples_received // self._manifest.front_end.hop_samples

    @property
    def frames_computed(self) -> int:
        """Mel frames that went through the encoder."""
        return self._ear.frames_computed

    def push(self, samples: ArrayLike, *, lag_ms: float = 0.0, dropped_samples: int = 0) -> list[Event]:
        """Take the next samples and return what they caused, in order.

        samples: (n,) or (n, channels), float32 in [-1, 1] or int16, any n. lag_ms: audio that waits behind these
        samples. dropped_samples: how many were lost just before them, at the caller's rate; times count them. Raises
        AudioError if a sample is not finite, UsageError for a wrong shape or after ``finish``; the stream is then as
        before.
        """
        sound = self._checked(samples)
        resampled = self._resampler.push(sound)
        events: list[Event] = []
        self._lag_ms = lag_ms
        if dropped_samples:
            at_s = self._pushed / self.options.sample_rate_hz
            self._pushed += dropped_samples
            self._drops.append((self._gate.pushed_samples, dropped_samples / self.options.sample_rate_hz))
            events.append(Lag(dropped_samples, at_s))
        self._pushed += len(sound)
        events += self._listen(resampled)
        if self._drops and not self._gate.is_open:
            self._forget_drops(self._gate.passed_samples + self._gate.gated_samples)
        return events

    def ask(self, text: str, *, role: str = "user") -> list[Event]:
        """Answer a turn in text, such as a question or, with the role ``tool``, what a tool returned; no sound needed.

        Raises UsageError while the user talks, after ``finish``, or where the bundle takes no text.
        """
        if self._finished or self._gate.is_open:
            state = "the stream has ended" if self._finished else "the user is talking"
            raise UsageError(f"ask: {state}; ask between a final text and the next sound")
        at_sample = self._gate.passed_samples + self._gate.gated_samples
        self._piece_start = self._piece_end = at_sample
        events: list[Event] = list(self._begin_answer(at_sample))
        if forgotten := self._decoder.tell(role, text, self._level):
            events.append(Forgot(forgotten, self._seconds(at_sample)))
        events += self._reply_to(None, at_sample)
        self._rest()
        return events

    def finish(self) -> list[Event]:
        """End the input and return what was still to come; a second call returns nothing."""
        if self._finished:
            return []
        self._finished = True
        events = [*self._listen(self._resampler.finish())]
        with self.trace.span(GATE, 0):
            decisions = self._gate.finish()
        events += self._decide(decisions)
        self._rest()
        return events

    def _listen(self, sound: Array) -> Iterator[Event]:
        self.samples_received += len(sound)
        with self.trace.span(GATE, len(sound)):
            decisions = self._gate.push(sound)
        yield from self._decide(decisions)
        self._rest()

    def _decide(self, decisions: Iterable[Output]) -> Iterator[Event]:
        for decision in decisions:
            match decision:
                case Opened(at_sample):
                    yield SpeechStarted(self._seconds(at_sample))
                    self._piece_start = self._piece_end = at_sample
                    yield from self._begin_answer(at_sample)
                case Sound(samples, sounding):
                    if sounding:
                        self._drafts.hear(self._piece_end, self._piece_end + len(samples))
                    yield from self._hear(samples)
                case Closed(end_sample, decided_sample):
                    yield SpeechStopped(self._seconds(end_sample), self._seconds(decided_sample))
                    yield from self._finish_piece()
                    yield from self._answer(end_sample)

    def _hear(self, samples: Array) -> Iterator[Event]:
        """Pass sound on; where the Grid's longest piece is full, the next begins with the very next sample."""
        while len(samples):
            if self._ear.room_samples <= 0:
                yield from self._next_piece()
            taken, samples = samples[: self._ear.room_samples], samples[self._ear.room_samples :]
            self._piece_end += len(taken)
            for heard in self._ear.push(taken):
                yield from self._tell(heard)
                if self.options.partials:
                    yield from self._draft()
                with self.trace.span(PREPARE):
                    self._decoder.prepare()

    def _next_piece(self) -> Iterator[Event]:
        yield from self._finish_piece()
        self._piece_start = self._piece_end
        if not self._decoder.next_piece():
            yield from self._answer(self._piece_end)
            yield from self._begin_answer(self._piece_end)

    def _finish_piece(self) -> Iterator[Event]:
        for heard in self._ear.finish():
            yield from self._tell(heard)

    def _tell(self, heard: Array) -> Iterator[Event]:
        """Tell the decoder; where its context is full, answer what it knows and begin the next answer with the rest."""
        first, last = self._ear.chunk_samples
        total = len(heard)
        rest = yield from self._hear_at_level(heard)
        while rest is not None:
            told = total - len(rest)
            cut = min(self._piece_end, self._piece_start + first + (last - first) * told // total)
            yield from self._answer(cut)
            yield from self._begin_answer(cut)
            rest = yield from self._hear_at_level(rest)

    def _hear_at_level(self, heard: Array) -> Generator[Event, None, Array | None]:
        yield from self._choose_level("hear")
        begun = self.trace.clock()
        rest = self._decoder.hear(heard, self._level)
        self._measured("hear", begun)
        return rest

    def _begin_answer(self, at_sample: int) -> Iterator[Event]:
        yield from self._choose_level("hear")
        forgotten = self._decoder.open(self._level)
        if forgotten:
            yield Forgot(forgotten, self._seconds(at_sample))
        self._answer_start = at_sample
        self._drafts.open(at_sample)

    def _draft(self) -> Iterator[Event]:
        """Yield the text of all that was heard so far, if there is time for it and it differs from the last."""
        end_sample = min(self._piece_end, self._piece_start + self._ear.chunk_samples[1])
        if not self._drafts.due(end_sample, self._lag_ms):
            return
        begun = self.trace.clock()
        heard_s = (end_sample - self._answer_start) / self._rate
        tokens = self._reply.without_loop(self._decoder.draft(self._level, heard_s, self._drafts.max_steps(end_sample)))
        text = self._tokenizer.decode(tokens).rstrip(UNFINISHED).strip()
        stable = self._drafts.write(text, end_sample, (self.trace.clock() - begun) * 1000)
        if stable is not None:
            bounds = self._seconds(self._answer_start), self._seconds(end_sample)
            yield self._show(Text(text, False, *bounds, stable=stable))

    def _answer(self, end_sample: int) -> Iterator[Event]:
        """Yield the reply to what was heard since the last one; nothing if no sound came."""
        if end_sample <= self._answer_start:  # the longest piece was full in the silence before the Gate closed
            return
        yield from self._reply_to((end_sample - self._answer_start) / self._rate, end_sample)

    def _reply_to(self, heard_s: float | None, end_sample: int) -> Iterator[Event]:
        yield from self._choose_level("answer")
        begun = self.trace.clock()
        bounds = self._seconds(self._answer_start), self._seconds(end_sample)
        with closing(self._reply.events(self._level, heard_s, bounds, self._drafts.shown)) as reply:
            for event in reply:
                if isinstance(event, Text) and event.final:  # what is still to be spoken is no part of its cost
                    self._measured("answer", begun)
                yield self._show(event)

    def _show(self, event: Reply.Event) -> Event:
        if isinstance(event, Audio):
            if self.options.on_audio is not None:
                self.options.on_audio(event)
        elif not isinstance(event, AudioCut) and self.options.on_text is not None:
            self.options.on_text(event)
        return event

    def _choose_level(self, work: _Work) -> Iterator[LevelChanged]:
        """Ask the Policy before work that the level changes: a cross decoder hears for nothing."""
        if self._pinned is not None:
            return
        if work == "hear" and self._manifest.protocol.attention == "cross":
            self._level = self._working
            return
        costs = self._costs[work]
        observation = Observation(sounding=True, lag_ms=self._lag_ms)
        self._level = choose(self._manifest.levels, observation, self._budget, costs.ms)
        costs.decided(self._level)
        if self._level != self._working:
            self._working = self._level
            yield LevelChanged(self._level.name, self._seconds(self._piece_end))

    def _rest(self) -> None:
        """Ask the Policy about gated silence. Going to ``skip`` and back is no LevelChanged: the Gate tells of it."""
        if self._pinned is not None or self._gate.is_open:
            return
        observation = Observation(sounding=False, lag_ms=self._lag_ms)
        chosen = choose(self._manifest.levels, observation, self._budget, {})
        self._level = chosen if chosen.name == SKIP else self._working

    def _measured(self, work: _Work, begun: float) -> None:
        self._costs[work].measured(self._level, (self.trace.clock() - begun) * 1000)

    def _seconds(self, sample: int) -> float:
        """Return the time of a 16 kHz sample of this stream, samples lost before it included."""
        return sample / self._rate + self._lost_s + sum(lost for at, lost in self._drops if at <= sample)

    def _forget_drops(self, before: int) -> None:
        self._lost_s += sum(lost for at, lost in self._drops if at <= before)
        self._drops = [drop for drop in self._drops if drop[0] > before]

    def _checked(self, samples: ArrayLike) -> Array:
        """Return samples as (n, channels) float32, or raise; see push."""
        if self._finished:
            raise UsageError("push: this stream is finished; start another with model.stream()")
        array, channels = np.asarray(samples), self.options.channels
        if array.ndim == 1 and (channels == 1 or array.size == 0):
            array = array.reshape(-1, channels)
        if array.ndim != 2 or array.shape[1] != channels:
            raise UsageError(f"samples: shape {array.shape}, (n, {channels}) is needed; transpose them or set channels")
        if array.dtype == np.int16:
            return array.astype(np.float32) / np.float32(_INT16_SCALE)
        if array.dtype.kind != "f" and array.size:
            raise UsageError(f"samples: {array.dtype}, float32 in [-1, 1] or int16 is needed; convert them first")
        with np.errstate(over="ignore"):  # an infinity is refused with its position
            return array.astype(np.float32)
