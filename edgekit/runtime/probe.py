"""Probe: one clip through a model's streaming path, with everything it computed kept for comparison.

The quality gate and `edgekit verify` judge bundles by it. Gate and Policy are left out: the clip is one utterance at a
pinned level, cut to what one piece of the grid takes. Sound is heard once and answered as often as one likes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import Component, ComputeLevel
from edgekit.runtime.cross import CrossDecoder
from edgekit.runtime.decode import Decoder, Setting
from edgekit.runtime.ear import Ear
from edgekit.runtime.engine import Array, Call, Engine
from edgekit.runtime.loops import loop_start
from edgekit.runtime.model import Model
from edgekit.runtime.prefix import Asking, PrefixDecoder
from edgekit.runtime.sampler import Greedy, Sampler
from edgekit.timing import Trace


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


def hear(model: Model, samples: Array) -> Heard:
    """Run samples (n,) float32 at 16 kHz through encoder and adapter, chunk by chunk."""
    encoder = _Recorded(model.engines["encoder"])
    ear = Ear(model.manifest, encoder, model.engines["adapter"], Trace())
    samples = samples[: ear.room_samples]
    parts = [part.copy() for part in ear.push(samples)]
    parts += [part.copy() for part in ear.finish()]
    return Heard(
        mel=tuple(inputs["mel"] for inputs, _ in encoder.calls),
        frames=np.concatenate([outputs["frames"] for _, outputs in encoder.calls]),
        parts=tuple(parts),
        seconds=len(samples) / model.manifest.front_end.sample_rate_hz,
    )


def answer(model: Model, heard: Heard, *, level: str | None = None, forced: Sequence[int] | None = None) -> Answer:
    """Decode at a level (the last by default); ``forced`` tokens are fed in place of the sampler's own choice."""
    manifest = model.manifest
    chosen = _level(model, level)
    teacher = _Teacher(Greedy(manifest.protocol), forced, manifest.protocol.stop[0])
    setting = Setting(
        manifest, model.engines["backbone"], model.table, model.tokenizer, teacher, Trace(), model.context_tokens,
        manifest.protocol.max_tokens,
    )  # fmt: skip
    cross = manifest.protocol.attention == "cross"
    decoder: Decoder = CrossDecoder(setting, None, None) if cross else PrefixDecoder(setting, Asking(think=0))
    decoder.open(chosen)
    for part in heard.parts:
        decoder.hear(part, chosen)
    tokens = tuple(decoder.answer(chosen, heard.seconds))
    text = model.tokenizer.decode(tokens[: loop_start(tokens, manifest.protocol.max_repeats)])
    return Answer(np.stack(teacher.logits), tuple(teacher.picked), tokens, text)


def _level(model: Model, name: str | None) -> ComputeLevel:
    levels = {level.name: level for level in model.manifest.levels}
    return levels[name] if name else model.manifest.levels[-1]


class _Recorded:
    """An Engine whose calls are kept, inputs and outputs."""

    def __init__(self, engine: Engine) -> None:
        self.component: Component = engine.component
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


class _Teacher:
    """A Sampler that remembers logits and choices, and follows ``forced`` tokens where they are given."""

    def __init__(self, sampler: Sampler, forced: Sequence[int] | None, stop: int) -> None:
        self.logits: list[Array] = []
        self.picked: list[int] = []
        self._sampler, self._stop = sampler, stop
        self._forced = None if forced is None else list(forced)

    def pick(self, logits: Array, *, first: bool) -> int:
        self.logits.append(logits.copy())
        self.picked.append(self._sampler.pick(logits, first=first))
        if self._forced is None:
            return self.picked[-1]
        return self._forced.pop(0) if self._forced else self._stop
