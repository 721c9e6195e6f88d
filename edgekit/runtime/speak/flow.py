"""FlowSpeaker: the speaker of Step-Audio 2, whose answers hold speech codes among their tokens.

    code tokens -> Flow -> log-mel -> Vocoder -> samples

Knows which tokens are sound; knows nothing of what was said before, which the backbone itself remembers.
"""

from collections.abc import Iterator, Mapping, Sequence

from edgekit.bundle import FlowSpeech
from edgekit.runtime.answer.speaker import Cut
from edgekit.runtime.engine import Array, Call, Engine
from edgekit.runtime.speak.matching import Flow
from edgekit.runtime.speak.spans import FLOW_ENCODER, FLOW_STEP, VOCODER
from edgekit.runtime.speak.vocoder import Vocoder
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, Voice
from edgekit.timing import Trace


class FlowSpeaker:
    """One stream's voice; a Speaker. It cuts nothing itself: where a limit ends the answer, its speech ends with it."""

    def __init__(
        self, speech: FlowSpeech, engines: Mapping[str, Engine], voice: Voice, trace: Trace, seed: int = 0
    ) -> None:
        """Read the voice's prompt, which takes as long as speaking it. Raises what Flow does."""
        self.sample_rate_hz = speech.sample_rate_hz
        self.cut: Cut | None = None
        self._speech, self._speaking = speech, False
        self._said, self._code_places = 0, list[int]()  # tokens of this answer, and which of them are codes
        self._ended = True
        encoder, step = (_Timed(engines[name], name, trace) for name in (FLOW_ENCODER, FLOW_STEP))
        self._flow = Flow(encoder, step, voice, speech)
        vocoder = _Timed(engines[VOCODER], VOCODER, trace)
        self._vocoder = Vocoder(vocoder, speech.samples_per_code // FRAMES_PER_CODE, seed)

    def open(self) -> None:
        """Begin a conversation; see Speaker. An answer that was being spoken ends."""
        self._flow.open()
        self._vocoder.reset()
        self._speaking = False

    def read(self, tokens: Sequence[int] | None, rows: Array, hidden: Array | None) -> None:  # noqa: ARG002 - as Speaker
        """Take nothing: the backbone says what is spoken. An answer that was being spoken ends."""
        if self._speaking:
            self.open()

    def takes(self, token: int) -> bool:
        """Return whether a token is a speech code, padding, or a mark around them."""
        return token >= self._speech.first_code or token in (self._speech.start, self._speech.end)

    def say(self, token: int) -> Iterator[Array | None]:
        """Take a token and yield samples; see Speaker. What is no code is dropped, as published."""
        if self._ended:
            self._said, self._code_places, self._ended = 0, [], False
        self._said += 1
        if 0 <= (code := token - self._speech.first_code) < self._speech.codes:
            self._speaking = True
            self._code_places.append(self._said)
            for mel in self._flow.steps([code]):
                samples = self._vocoder.push(mel, last=False) if len(mel) else mel
                yield samples if len(samples) else None

    def finish(self) -> Iterator[Array | None]:
        """Yield the rest of the answer; see Speaker."""
        self._ended = True
        rest = self._flow.nothing
        for mel in self._flow.last_steps():
            if not len(mel):
                yield None
            else:
                rest = mel
        samples = self._vocoder.push(rest, last=True)
        self._speaking = False
        if len(samples):
            yield samples

    def heard_tokens(self, seconds: float) -> int:
        """Return the tokens up to the last code whose sound is whole; see Speaker. Exact: codes are tokens."""
        codes = int(seconds * self._speech.sample_rate_hz / self._speech.samples_per_code)
        if codes >= len(self._code_places):
            return self._said
        return self._code_places[codes - 1] if codes else 0

    def mark(self) -> None:
        """Return nothing: between two answers a flow stands where its voice's prompt ends."""

    def back(self, mark: None) -> None:  # noqa: ARG002 - as Speaker has it
        """End an answer in progress unsaid; see Speaker."""
        self.open()
        self._ended = True


class _Timed:
    """An Engine whose every run is a span of its name."""

    def __init__(self, engine: Engine, name: str, trace: Trace) -> None:
        self.component, self.counts, self.notes = engine.component, engine.counts, engine.notes
        self._engine, self._name, self._trace = engine, name, trace

    def bind(self, sizes: Mapping[str, int]) -> Call:
        return _TimedCall(self._engine.bind(sizes), self._name, self._trace)


class _TimedCall:
    def __init__(self, call: Call, name: str, trace: Trace) -> None:
        self._call, self._name, self._trace = call, name, trace

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._trace.span(self._name):
            return self._call.run(inputs)

    def reset(self) -> None:
        self._call.reset()

    def save(self) -> Mapping[str, Array]:
        return self._call.save()

    def load(self, state: Mapping[str, Array]) -> None:
        self._call.load(state)
