"""Probe: one clip through a model's streaming path, with everything it computed kept for comparison.

The quality gate and `edgekit verify` judge bundles by it. Gate and Policy are left out: the clip is one utterance at a
pinned level, cut to what one piece of the grid takes. Sound is heard once and answered as often as one likes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component, ComputeLevel, FlowSpeech, TalkerSpeech
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.loops import loop_start
from edgekit.runtime.answer.sampler import CodeLimits, Greedy, Sampler
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.assemble import make_answerer, make_listener, make_speaker
from edgekit.runtime.engine import Array, Call, Engine
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.speak.talker import Talker, TalkerOptions, TalkerTables, first_code_limits
from edgekit.timing import Trace

FRAMES = 48  # of codes in what a bundle says to be compared: about 4 s of Qwen3-Omni's, 2 s of Step-Audio's
_TOKENS_PER_CODE = (
    2  # of an answer among whose tokens there are codes, at most, so that one without any comes to an end
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What encoder and adapter made of a clip.

    mel: input of each encoder call, (mel_bins, frames) each; frames: (positions, width); parts: adapter output of each
    call; seconds: of sound.
    """

    mel: tuple[Array, ...]
    frames: Array
    parts: tuple[Array, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the backbone made of it.

    logits: (steps, vocabulary); picked: the token the sampler would have taken at each step; tokens: those fed.
    """

    logits: Array
    picked: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What a bundle that speaks made of an answer.

    tokens: of the answer, those fed; codes: (frames, codebooks) int64, those fed; picked: per codebook the codes that
    the sampler would have taken, the talker's end of speech among its own; mel: (frames, bins) natural logarithms that
    a vocoder was given, pieces with what they share, none where nothing is; samples: (n,) in [-1, 1].
    """

    tokens: tuple[int, ...]
    codes: NDArray[np.int64]
    picked: tuple[NDArray[np.int64], ...]
    mel: Array
    samples: Array


def hear(model: Model, samples: Array) -> Heard:
    """Run samples (n,) float32 at the front end's rate through encoder and adapter, chunk by chunk."""
    encoder = _Recorded(model.engines["encoder"])
    listener = make_listener(replace(model, engines=model.engines | {"encoder": encoder}), Trace())
    samples = samples[: listener.room_samples]
    parts = [part.copy() for part in listener.push(samples)]
    parts += [part.copy() for part in listener.finish()]
    return Heard(
        mel=tuple(inputs["mel"] for inputs, _ in encoder.calls),
        frames=np.concatenate([outputs["frames"] for _, outputs in encoder.calls]),
        parts=tuple(parts),
        seconds=len(samples) / model.manifest.front_end.sample_rate_hz,
    )


def answer(model: Model, heard: Heard, *, level: str | None = None, forced: Sequence[int] | None = None) -> Answer:
    """Decode at a level (the last by default); ``forced`` tokens are fed in place of the sampler's own choice."""
    protocol = model.manifest.protocol
    teacher = _Teacher(Greedy(protocol), forced, protocol.stop[0])
    tokens = tuple(_answering(model, heard, teacher, level))
    text = model.tokenizer.decode(tokens[: loop_start(tokens, protocol.max_repeats)])
    return Answer(np.stack(teacher.logits), tuple(teacher.picked), tokens, text)


def speak(
    model: Model, heard: Heard, tokens: Sequence[int], *, frames: int = FRAMES, forced: Spoken | None = None
) -> Spoken:
    """Say ``tokens``, an answer to what was heard, in at most ``frames`` frames of codes, the likeliest ones.

    ``forced``: what another said, whose codes are fed in place of the sampler's own choice. The model must have been
    loaded to speak. Where codes are among an answer's tokens it is answered anew, to be spoken, and ``tokens`` are not
    looked at; if it then holds no code, seeded ones are made sound.
    """
    speech = model.manifest.speech
    assert speech is not None, "a model that was loaded to speak"
    if isinstance(speech, FlowSpeech):
        return _speak_codes(model, speech, heard, frames, forced)
    return _speak_text(model, heard, tokens[:frames], frames, forced)


def _speak_text(model: Model, heard: Heard, tokens: Sequence[int], frames: int, forced: Spoken | None) -> Spoken:
    """Let the Talker say an answer; it hears the turn through the model's own backbone."""
    speech, protocol = model.manifest.speech, model.manifest.protocol
    assert isinstance(speech, TalkerSpeech), "the other kind has codes among its tokens"
    books = speech.codebooks
    told = None if forced is None else forced.codes
    at_most = min(frames, speech.max_frames)
    first = _Teacher(
        Greedy(first_code_limits(speech), "talker"), None if told is None else told[:, 0].tolist(), speech.codec_eos,
        at_most=at_most,
    )  # fmt: skip
    others = _Teacher(Greedy(CodeLimits(), "code_predictor"), None if told is None else told[:, 1:].ravel().tolist(), 0)
    tables = (TokenTable(model.bundle, table) for table in (speech.codec_table, speech.code_table))
    options = TalkerOptions(samplers=(first, others))
    speaker = Talker(speech, model.engines, TalkerTables(model.table, *tables), Trace(), options)
    feed = _Teacher(Greedy(protocol), tokens, protocol.stop[0])
    said, samples = _sounding(speaker, _answering(model, heard, feed, None, speaker))
    codes = np.array([code for code in first.fed if code != speech.codec_eos], np.int64)
    rest = np.array(others.fed, np.int64).reshape(len(codes), books - 1)
    picked = np.array(others.picked, np.int64).reshape(len(codes), books - 1)
    return Spoken(
        tokens=tuple(said),
        codes=np.column_stack((codes, rest)),
        picked=(np.array(first.picked, np.int64), *picked.T),
        mel=np.zeros((0, 0), np.float32),
        samples=samples,
    )


def _speak_codes(model: Model, speech: FlowSpeech, heard: Heard, frames: int, forced: Spoken | None) -> Spoken:
    """Let flow and vocoder say the codes of a spoken answer."""
    vocoder = _Recorded(model.engines["vocoder"])
    speaker = make_speaker(
        replace(model, engines=model.engines | {"vocoder": vocoder}), StreamOptions(speak=True), Trace()
    )
    assert speaker is not None, "asked for"
    protocol = msgspec.structs.replace(model.manifest.protocol, vocabulary_limit=None)
    teacher = _Teacher(Greedy(protocol), None if forced is None else forced.tokens, protocol.stop[0])
    answered = islice(_answering(model, heard, teacher, None, speaker), _TOKENS_PER_CODE * frames)
    tokens = list(answered)

    def codes_of(found: Sequence[int]) -> NDArray[np.int64]:
        codes = np.array(found, np.int64) - speech.first_code
        return codes[(codes >= 0) & (codes < speech.codes)]

    own = [place for place, token in enumerate(tokens) if len(codes_of([token]))][:frames]
    codes = codes_of([tokens[place] for place in own])
    picked = np.array([teacher.picked[place] for place in own], np.int64) - speech.first_code
    if not own:
        codes = np.random.default_rng(0).integers(0, speech.codes, frames)
    _, samples = _sounding(speaker, iter((codes + speech.first_code).tolist()))
    return Spoken(
        tokens=tuple(tokens),
        codes=codes[:, None],
        picked=(picked,),
        mel=np.concatenate([inputs["mel"] for inputs, _ in vocoder.calls]),
        samples=samples,
    )


def _sounding(speaker: Speaker, tokens: Iterator[int]) -> tuple[list[int], Array]:
    """Return the tokens that were said, and their samples."""
    said, pieces = [], [np.zeros(0, np.float32)]
    for token in tokens:
        said.append(token)
        pieces += [piece.copy() for piece in speaker.say(token) if piece is not None]
    pieces += [piece.copy() for piece in speaker.finish() if piece is not None]
    return said, np.concatenate(pieces)


def _answering(
    model: Model, heard: Heard, sampler: Sampler, level: str | None, speaker: Speaker | None = None
) -> Iterator[int]:
    """Yield the tokens of an answer to what was heard, those that the sampler takes."""
    chosen = _level(model, level)
    answerer = make_answerer(model, StreamOptions(think=False), Trace(), speaker, sampler)
    answerer.open(chosen)
    for part in heard.parts:
        answerer.hear(part, chosen)
    yield from answerer.answer(chosen, heard.seconds)


def _level(model: Model, name: str | None) -> ComputeLevel:
    levels = {level.name: level for level in model.manifest.levels}
    return levels[name] if name else model.manifest.levels[-1]


class _Recorded:
    """An Engine whose calls are kept, inputs and outputs."""

    def __init__(self, engine: Engine) -> None:
        self.component: Component = engine.component
        self.counts, self.notes = engine.counts, engine.notes
        self.calls: list[tuple[dict[str, Array], dict[str, Array]]] = []
        self._engine = engine

    def bind(self, sizes: Mapping[str, int]) -> Call:
        return _RecordedCall(self._engine.bind(sizes), self.calls)


class _RecordedCall:
    def __init__(self, call: Call, calls: list[tuple[dict[str, Array], dict[str, Array]]]) -> None:
        self._call, self._calls = call, calls

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._call.run(inputs)
        self._calls.append(({k: v.copy() for k, v in inputs.items()}, {k: v.copy() for k, v in outputs.items()}))
        return outputs

    def reset(self) -> None:
        self._call.reset()

    def save(self) -> Mapping[str, Array]:
        return self._call.save()

    def load(self, state: Mapping[str, Array]) -> None:
        self._call.load(state)


class _Teacher:
    """A Sampler that remembers logits and choices, and follows ``forced`` tokens where they are given.

    ``fed``: what it gave out; ``stop`` comes after the forced ones, or after ``at_most`` of its own.
    """

    def __init__(
        self, sampler: Sampler, forced: Sequence[int] | None, stop: int, *, at_most: int | None = None
    ) -> None:
        self.logits: list[Array] = []
        self.picked: list[int] = []
        self.fed: list[int] = []
        self._sampler, self._stop, self._at_most = sampler, stop, at_most
        self._forced = None if forced is None else list(forced)

    def pick(self, logits: Array, *, first: bool) -> int:
        self.logits.append(logits.copy())
        self.picked.append(self._sampler.pick(logits, first=first))
        self.fed.append(self._next())
        return self.fed[-1]

    def mark(self) -> None:
        raise AssertionError("what is forced is not drawn again")

    def back(self, mark: object) -> None:  # noqa: ARG002 - as Sampler has it
        raise AssertionError("what is forced is not drawn again")

    def _next(self) -> int:
        if self._forced is not None:
            return self._forced.pop(0) if self._forced else self._stop
        return self._stop if self._at_most is not None and len(self.fed) >= self._at_most else self.picked[-1]
