"""Probe: one clip through a model's streaming path, with everything it computed kept for comparison.

The quality gate and `edgekit verify` judge bundles by it. Gate and Policy are left out: the clip is one utterance at a
pinned level, cut to what one piece of the grid takes. Sound is heard once and answered as often as one likes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit.bundle import ComputeLevel
from edgekit.runtime.answer.answerer import Answerer
from edgekit.runtime.answer.lookup import loop_start
from edgekit.runtime.answer.prompt import DETECTED
from edgekit.runtime.answer.sampler import Greedy, Sampler, Teacher, likeliest
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.assemble import find_level, make_answerer, make_listener, speaker_setting
from edgekit.runtime.engine import Array, Recorded
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.speak import Rehearsal, Spoken, kind_of
from edgekit.timing import Trace

FRAMES = 48  # of codes in what a bundle says to be compared: about 4 s of Qwen3-Omni's, 2 s of Step-Audio's
_OPTIONS = StreamOptions(think=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """What encoder and adapter made of a clip.

    samples: (n,) as heard, cut to one piece; mel: input of each encoder call, (mel_bins, frames) each; frames:
    (positions, width); parts: adapter output of each call; seconds: of sound.
    """

    samples: Array
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


def hear(model: Model, samples: Array) -> Heard:
    """Run samples (n,) float32 at the front end's rate through encoder and adapter, chunk by chunk."""
    encoder = Recorded(model.engines["encoder"])
    listener = make_listener(replace(model, engines=model.engines | {"encoder": encoder}), Trace())
    samples = samples[: listener.room_samples]
    parts = [part.copy() for part in listener.push(samples)]
    parts += [part.copy() for part in listener.finish()]
    return Heard(
        samples=samples,
        mel=tuple(inputs["mel"] for inputs, _ in encoder.calls),
        frames=np.concatenate([outputs["frames"] for _, outputs in encoder.calls]),
        parts=tuple(parts),
        seconds=len(samples) / model.manifest.front_end.sample_rate_hz,
    )


def answer(
    model: Model,
    heard: Heard,
    *,
    level: str | None = None,
    forced: Sequence[int] | None = None,
    language: str | None = None,
    prompt: str | None = None,
) -> Answer:
    """Decode at a level (the last by default); ``forced`` tokens are fed in place of the sampler's own choice.

    ``language`` and ``prompt`` are those of StreamOptions.
    """
    protocol = model.manifest.protocol
    teacher = Teacher(Greedy(protocol, likeliest(protocol.sampling)), forced, protocol.stop[0])
    options = replace(_OPTIONS, language=language, prompt=prompt)
    tokens = tuple(_answering(model, heard, teacher, level, options=options))
    text = model.tokenizer.decode(tokens[: loop_start(tokens, protocol.max_repeats)])
    return Answer(np.stack(teacher.logits), tuple(teacher.picked), tokens, text)


def recognised(model: Model, heard: Heard) -> str | None:
    """Return the likeliest language of what was heard; None where tokens name none."""
    answerer, level = _ready(model, heard, None, replace(_OPTIONS, language=DETECTED))
    next(iter(answerer.answer(level, heard.seconds)), None)
    return answerer.language


def around(model: Model, language: str | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens that ``answer`` feeds before the sound and behind it; a language still to be chosen not."""
    return make_answerer(model, replace(_OPTIONS, language=language), Trace()).prompt.around


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
    setting = speaker_setting(model, _OPTIONS, Trace())

    def answering(sampler: Sampler, speaker: Speaker) -> Iterator[int]:
        return _answering(model, heard, sampler, None, speaker)

    rehearsal = Rehearsal(setting, model.manifest.protocol, tuple(tokens), frames, forced, answering)
    return kind_of(speech).rehearsed(speech, rehearsal)


def _answering(
    model: Model,
    heard: Heard,
    sampler: Sampler,
    level: str | None,
    speaker: Speaker | None = None,
    *,
    options: StreamOptions = _OPTIONS,
) -> Iterator[int]:
    """Yield the tokens of an answer to what was heard, those that the sampler takes."""
    answerer, chosen = _ready(model, heard, level, options, sampler=sampler, speaker=speaker)
    yield from answerer.answer(chosen, heard.seconds)


def _ready(
    model: Model,
    heard: Heard,
    level: str | None,
    options: StreamOptions,
    *,
    sampler: Sampler | None = None,
    speaker: Speaker | None = None,
) -> tuple[Answerer, ComputeLevel]:
    """Return what answers, told of all that was heard, and the level."""
    levels = model.manifest.levels
    chosen = find_level(levels, level) if level else levels[-1]
    answerer = make_answerer(model, options, Trace(), speaker, sampler)
    answerer.open(chosen)
    for part in heard.parts:
        answerer.hear(part, chosen)
    return answerer, chosen
