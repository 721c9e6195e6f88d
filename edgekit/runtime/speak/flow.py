"""FlowSpeaker: the speaker of Step-Audio 2, whose answers hold speech codes among their tokens.

    code tokens -> Flow -> log-mel -> Vocoder -> samples

Knows which tokens are sound; knows nothing of what was said before, which the backbone itself remembers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Sampling, TokenProtocol
from edgekit.bundle.speech import FlowSpeech
from edgekit.runtime.answer.sampler import Greedy, Limits, Teacher
from edgekit.runtime.answer.speaker import Cut
from edgekit.runtime.engine import Array, Call, Engine, Recorded, Sizes
from edgekit.runtime.speak.base import SpeechKind
from edgekit.runtime.speak.matching import CONTEXT_CODES, Flow, count_slots
from edgekit.runtime.speak.rehearsal import Rehearsal, Spoken, sounding
from edgekit.runtime.speak.setting import SpeakerSetting
from edgekit.runtime.speak.vocoder import HELD_FRAMES, Vocoder
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, LEAST_CODES, MOST_CODES, Voice, load_voice
from edgekit.spans import SPEAK, register
from edgekit.timing import Trace

FLOW_ENCODER = register("flow_encoder", "runs", "codes to what the flow is led by", within=SPEAK)
FLOW_STEP = register("flow_step", "runs", "a step of the flow's solver", within=SPEAK)
VOCODER = register("vocoder", "runs", "log-mel to samples", within=SPEAK)
_USUAL_SHARE = 4  # a voice's prompt is usually about a quarter of the longest one
_TOKENS_PER_CODE = 2  # of an answer, at most: one without any code must come to an end


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
        self._ended = True
        if self._speaking:
            self.open()

    def takes(self, token: int) -> bool:
        """Return whether a token is a speech code, padding, or a mark around them."""
        return token >= self._speech.first_code or token in (self._speech.start, self._speech.end)

    def next_row(self, token: int, hidden: Array | None) -> None:
        """Leave the lead to the backbone: its tokens are the codes."""

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
        codes = round(seconds * self._speech.sample_rate_hz) // self._speech.samples_per_code
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


def _open(speech: FlowSpeech, setting: SpeakerSetting) -> FlowSpeaker:
    path = speech.voices[setting.voice or min(speech.voices)]
    voice = load_voice(setting.bundle.file(path), speech.sample_rate_hz, setting.bundle.read(path))
    return FlowSpeaker(speech, setting.engines, voice, setting.trace, setting.seed)


def _voices(speech: FlowSpeech) -> tuple[str, ...]:
    return tuple(sorted(speech.voices))


def _drawing(speech: FlowSpeech, protocol: TokenProtocol) -> tuple[Limits, Sampling]:
    """A reply in speech codes is of other tokens than a text."""
    return msgspec.structs.replace(protocol, vocabulary_limit=None), speech.sampling


def _free_sizes(speech: FlowSpeech, _context_tokens: int) -> dict[str, Sizes]:
    """Return those of each component.

    A call of the flow is for a voice's prompt, or for a chunk and what it looks ahead to; the vocoder's is for frames
    that it held back and for those of a chunk, or for a chunk and those that were too few to begin with.
    """
    ahead, chunk = speech.lookahead_codes, speech.chunk_codes
    most_frames = FRAMES_PER_CODE * (chunk + ahead)
    prompts = [FRAMES_PER_CODE * codes for codes in (LEAST_CODES, MOST_CODES // _USUAL_SHARE, MOST_CODES)]
    low, usual, high = (count_slots(frames, most_frames) for frames in prompts)
    codes_kept, frames_kept = CONTEXT_CODES, FRAMES_PER_CODE * CONTEXT_CODES
    per_frame = speech.samples_per_code // FRAMES_PER_CODE
    new = (1, FRAMES_PER_CODE * chunk, most_frames + HELD_FRAMES - 1)
    held = (0, HELD_FRAMES, HELD_FRAMES)
    return {
        "flow_encoder": {
            "codes": (ahead + 1, chunk + ahead, max(MOST_CODES, chunk + ahead) + ahead),
            "codes_kept": (codes_kept, codes_kept, codes_kept),
            "frames_kept": (frames_kept, frames_kept, frames_kept),
        },
        "flow_step": {
            "frames": (FRAMES_PER_CODE, FRAMES_PER_CODE * chunk, max(prompts[2], most_frames)),
            "capacity": (low, usual, high),
        },
        "vocoder": {
            "frames": (1, new[1] + held[1], new[2] + held[2]),
            "kept": (0, held[1] * per_frame, held[2] * per_frame),
            "new": (per_frame, new[1] * per_frame, new[2] * per_frame),
        },
    }


def _rehearse(speech: FlowSpeech, rehearsal: Rehearsal) -> Spoken:
    """Let flow and vocoder say the codes of an answer that is made anew, to be spoken: its tokens are not looked at.

    If it holds no code, seeded ones are made sound.
    """
    vocoder, frames = Recorded(rehearsal.setting.engines["vocoder"]), rehearsal.frames
    setting = replace(rehearsal.setting, engines={**rehearsal.setting.engines, "vocoder": vocoder})
    speaker, protocol = _open(speech, setting), rehearsal.protocol
    limits, _ = _drawing(speech, protocol)
    teacher = Teacher(Greedy(limits), None if rehearsal.forced is None else rehearsal.forced.tokens, protocol.stop[0])
    tokens = list(islice(rehearsal.answer(teacher, speaker), _TOKENS_PER_CODE * frames))

    def codes_of(found: Sequence[int]) -> NDArray[np.int64]:
        codes = np.array(found, np.int64) - speech.first_code
        return codes[(codes >= 0) & (codes < speech.codes)]

    own = [place for place, token in enumerate(tokens) if len(codes_of([token]))][:frames]
    codes = codes_of([tokens[place] for place in own])
    picked = np.array([teacher.picked[place] for place in own], np.int64) - speech.first_code
    if not own:
        codes = np.random.default_rng(0).integers(0, speech.codes, frames)
    _, samples = sounding(speaker, iter((codes + speech.first_code).tolist()))
    return Spoken(
        tokens=tuple(tokens),
        codes=codes[:, None],
        picked=(picked,),
        mel=np.concatenate([inputs["mel"] for inputs, _ in vocoder.calls]),
        samples=samples,
    )


KIND: SpeechKind[FlowSpeech] = SpeechKind(
    name="flow",
    components=("flow_encoder", "flow_step", "vocoder"),
    open=_open,
    free_sizes=_free_sizes,
    drawing=_drawing,
    voices=_voices,
    rehearse=_rehearse,
)
