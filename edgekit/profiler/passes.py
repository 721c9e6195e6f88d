"""One pass of one input through a Stream, with every moment that a latency is counted from.

Uses only ``push``, ``finish``, ``measure`` and ``trace``: what any caller could measure.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import GateKind
from edgekit.errors import ProfileError
from edgekit.profiler.pacing import Pacer
from edgekit.profiler.profiles import Timeline, TimelineSpan
from edgekit.runtime.answer.lookup import agreed
from edgekit.runtime.events import Audio, Event, SpeechStarted, SpeechStopped, Text
from edgekit.runtime.model import Model
from edgekit.spans import SPEAK, names_within
from edgekit.timing import Span

_DECIMALS = 3  # microseconds


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer's sound: on the clock, when its first and its last piece reached the caller, and its length."""

    first_s: float
    last_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The last utterance that one call closed. ``closed_s``: end, in stream time, of the block that closed it; the
    others are on the clock: when that block was complete, when the first token's and the final text reached the caller.
    ``spoken``: its sound, if there was any.
    """

    closed_s: float
    due_s: float
    first_token_s: float
    final_text_s: float
    text: str
    spoken: Spoken | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass took. ``origin_s``: when the first sample was due; ``work_s``: time spent inside the Stream;
    ``text``: all final texts. ``first_drafts_s``: for each utterance with a draft, the clock's time from when its first
    sample was due to its first words in the caller's hands; ``drafted``: the share of each final text's characters that
    the caller had already, from its beginning, when the end of speech was decided.
    """

    origin_s: float
    audio_s: float
    work_s: float
    spans: tuple[Span, ...]
    answers: tuple[Answer, ...]
    frames_received: int
    frames_computed: int
    text: str
    first_drafts_s: tuple[float, ...] = ()
    drafted: tuple[float, ...] = ()

    def milliseconds(self, name: str) -> list[float]:
        """Return the length of every span of a name."""
        return [span.seconds * 1000 for span in self.spans if span.name == name]

    def host_overhead(self) -> float | None:
        """Return the time that speaking took beside its engines, as a share of theirs; None if nothing was spoken.

        What these engines did outside of speaking, such as hearing the question, is not counted.
        """
        speaking = [(span.start_s, span.start_s + span.seconds) for span in self.spans if span.name == SPEAK]
        names = names_within(SPEAK)
        engines = [span for span in self.spans if span.name in names]
        within = sum(span.seconds for span in engines if any(start <= span.start_s < end for start, end in speaking))
        return sum(end - start for start, end in speaking) / within - 1 if within else None

    def done_before(self, name: str, stream_s: float) -> float | None:
        """Return the share of the work called ``name`` that ended before a moment of stream time; None without work."""
        work = [span for span in self.spans if span.name == name]
        total = sum(span.count for span in work)
        moment = self.origin_s + stream_s
        return sum(span.count for span in work if span.start_s + span.seconds <= moment) / total if total else None


def run_pass(
    model: Model,
    samples: NDArray[np.float32],
    pacer: Pacer,
    *,
    gate: GateKind | None = None,
    level: str | None = None,
    partials: bool = False,
    speak: bool = False,
) -> Pass:
    """Push samples (n,) through a new Stream and return what happened; options as in StreamOptions.

    The samples are at the rate of the bundle's front end: nothing is resampled.
    """
    clock, rate_hz = pacer.clock, model.manifest.front_end.sample_rate_hz
    stream = model.stream(sample_rate_hz=rate_hz, gate=gate, level=level, partials=partials, speak=speak)
    stream.measure(clock=clock, limit=sys.maxsize)
    answers: list[Answer] = []
    heard: list[str] = []
    work_s, drafts = 0.0, _Drafts(clock())

    def read(begun_s: float, events: Iterator[Event], end_s: float, due_s: float) -> None:
        """Read the events of a call, each at the moment it comes; keep the last answer among them."""
        nonlocal work_s
        timed = [(clock(), event) for event in events]
        work_s += clock() - begun_s
        drafts.read(timed)
        heard.extend(event.text for _, event in timed if isinstance(event, Text) and event.final and event.text)
        if (answer := last_answer(timed, end_s, due_s)) is not None:
            answers.append(answer)

    origin_s = drafts.origin_s
    end_s, due_s = 0.0, origin_s
    for block in pacer.blocks(samples, origin_s, rate_hz):
        end_s, due_s = block.end_s, block.due_s
        begun_s = clock()
        read(begun_s, stream.push(block.samples, lag_ms=0.0), end_s, due_s)
    begun_s = clock()
    read(begun_s, stream.finish(), end_s, due_s if pacer.paced else begun_s)
    return Pass(
        origin_s=origin_s,
        audio_s=end_s,
        work_s=work_s,
        spans=tuple(stream.trace.spans),
        answers=tuple(answers),
        frames_received=stream.frames_received,
        frames_computed=stream.frames_computed,
        text=" ".join(heard),
        first_drafts_s=tuple(drafts.first_s),
        drafted=tuple(drafts.shares),
    )


def last_answer(timed: Sequence[tuple[float, Event]], end_s: float, due_s: float) -> Answer | None:
    """Return the last answer of a call that ended in it, None if none did. timed: events, each with its moment.

    ``end_s`` and ``due_s`` are the Answer's ``closed_s`` and ``due_s``.
    """
    finals = [(at_s, event) for at_s, event in timed if isinstance(event, Text) and event.final]
    if not finals:
        return None
    final_s, final = finals[-1]
    own = [(at_s, event) for at_s, event in timed if isinstance(event, (Text, Audio)) and event.answer == final.answer]
    stopped_s = max(
        (at_s for at_s, event in timed if isinstance(event, SpeechStopped) and at_s <= final_s), default=0.0
    )
    texts = [at_s for at_s, event in own if isinstance(event, Text) and at_s >= stopped_s]
    return Answer(end_s, due_s, min(texts), final_s, final.text, spoken_of(own))


def spoken_of(timed: Sequence[tuple[float, Event]]) -> Spoken | None:
    """Return the sound among the events of an answer, each with its moment on the clock; None if there is none."""
    pieces = [(at_s, len(event.samples) / event.sample_rate_hz) for at_s, event in timed if isinstance(event, Audio)]
    pieces = [piece for piece in pieces if piece[1] > 0]
    if not pieces:
        return None
    return Spoken(pieces[0][0], pieces[-1][0], sum(seconds for _, seconds in pieces))


@dataclass(slots=True)
class _Drafts:
    """What the texts before the end of speech were worth; see Pass."""

    origin_s: float
    first_s: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    _started_s: float | None = None  # while the utterance has no words
    _shown: str = ""
    _talking: bool = False

    def read(self, timed: Sequence[tuple[float, Event]]) -> None:
        """Take the events of one call, each with the moment when it was handed over."""
        for at_s, event in timed:
            if isinstance(event, SpeechStarted):
                self._started_s, self._shown, self._talking = event.at_s, "", True
            elif isinstance(event, SpeechStopped):
                self._talking = False
            elif isinstance(event, Text):
                self._read(event, at_s)

    def _read(self, text: Text, at_s: float) -> None:
        if text.final:
            if self._shown and text.text:
                self.shares.append(agreed(self._shown, text.text) / len(text.text))
            self._shown = ""
        elif self._talking:
            self._shown = text.text
            if self._started_s is not None and text.text:
                self.first_s.append(at_s - self.origin_s - self._started_s)
                self._started_s = None


@dataclass(frozen=True, slots=True)
class Latency:
    """Of a pass's last utterance, in ms; see the metrics of the same names. The last two are None without sound."""

    decision_ms: float
    first_token_ms: float
    final_text_ms: float
    first_audio_ms: float | None = None
    speech_real_time_factor: float | None = None


def latency_of(done: Pass, name: str, speech_end_s: float) -> Latency:
    """Return the Latency of an input whose last speech sample is at ``speech_end_s``.

    Raises ProfileError if no utterance was closed after it: the gate heard nothing there, or split the speech.
    """
    if not done.answers:
        raise ProfileError(
            f"{name}: no utterance was found in it; choose a clip with clear speech or measure with the gate off"
        )
    answer = done.answers[-1]
    decision_s = answer.closed_s - speech_end_s
    if decision_s < -1e-6:
        raise ProfileError(
            f"{name}: the gate closed the last utterance {-decision_s:.2f} s before the last speech sample; "
            "choose another clip"
        )
    spoken = answer.spoken
    return Latency(
        decision_ms=max(0.0, decision_s) * 1000,
        first_token_ms=(answer.first_token_s - answer.due_s) * 1000,
        final_text_ms=(answer.final_text_s - answer.due_s) * 1000,
        first_audio_ms=(spoken.first_s - answer.due_s) * 1000 if spoken else None,
        speech_real_time_factor=(spoken.last_s - answer.due_s) / spoken.seconds if spoken else None,
    )


def timeline_of(done: Pass, name: str, speech_end_s: float) -> Timeline:
    """Return the Timeline of a paced pass with at least one answer, up to its last final text."""
    answer = done.answers[-1]

    def since(moment_s: float) -> float:
        return round((moment_s - done.origin_s) * 1000, _DECIMALS)

    return Timeline(
        clip=name,
        text=answer.text,
        speech_end_ms=round(speech_end_s * 1000, _DECIMALS),
        closed_ms=since(answer.due_s),
        first_token_ms=since(answer.first_token_s),
        final_text_ms=since(answer.final_text_s),
        spans=tuple(
            TimelineSpan(
                name=span.name, start_ms=since(span.start_s), ms=round(span.seconds * 1000, _DECIMALS), count=span.count
            )
            for span in done.spans
            if span.start_s < answer.final_text_s
        ),
    )
