"""Flow: one stream's speech codes become mel frames, by chunks, in a Voice. Source: Lipman et al. 2023, Flow Matching
for Generative Modeling (arXiv:2210.02747); what is kept from call to call: stepfun-ai/Step-Audio2, token2wav.py.

Knows the graphs ``flow_encoder`` and ``flow_step``, solves the equation between them, and keeps their caches; knows
nothing of tokens, text or samples.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Component
from edgekit.bundle.speech import FlowSpeech
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.engine import Array, Engine
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, Voice

KEPT_OLD = 100  # the published limit: attention keeps as many frames as the prompt has, and these
CONTEXT_CODES = 1500  # 60 s of what the conformer remembers, prompt included
MASKED = -1e10
NO_CODE = -1  # stands for a row of zeros in a graph that takes no ``pad``

Frames = NDArray[np.float32]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a stream stands: codes in the conformer's cache, slots kept newest first, rows left of convolutions."""

    codes: int
    slots: NDArray[np.int64]
    encoder_left: Array
    step_lefts: tuple[Array, ...]


class Flow:
    """One stream's codes to mel frames, FRAMES_PER_CODE for each.

    A chunk is made as soon as its codes and the look-ahead behind them are there: ``first_chunks`` name sizes for the
    first ones, in codes; then the bundle's own size. The conformer remembers ``context_codes``; where they are used up
    it goes on with the prompt alone as its past. The prompt is read once, which takes as long as speaking it.

    Raises BundleFormatError if the voice is none for this bundle, UsageError if the sizes leave it no room.
    """

    def __init__(
        self,
        encoder: Engine,
        step: Engine,
        voice: Voice,
        speech: FlowSpeech,
        *,
        first_chunks: Sequence[int] = (),
        context_codes: int = CONTEXT_CODES,
    ) -> None:
        check_voice(voice, speech, step.component)
        self._speech = speech
        self._chunks = (*first_chunks, speech.chunk_codes)
        most = max(self._chunks) + speech.lookahead_codes  # of one call: the last one has no codes behind it
        if min(self._chunks) < 1 or len(voice.codes) + most > context_codes:
            raise UsageError(
                f"chunks of {self._chunks} codes after a prompt of {len(voice.codes)}: must be 1 or more and fit into "
                f"context_codes {context_codes}; choose smaller chunks or a shorter voice"
            )
        self._context = context_codes
        self._prompt_frames = len(voice.mel)
        self._speaker = np.ascontiguousarray(voice.speaker[None])
        self._most_frames = FRAMES_PER_CODE * most
        self._capacity = count_slots(self._prompt_frames, self._most_frames)
        self._counts_pad = any(spec.name == "pad" for spec in encoder.component.inputs)
        self._encoder = encoder.bind({"codes_kept": context_codes, "frames_kept": FRAMES_PER_CODE * context_codes})
        self._steps = [step.bind({"capacity": self._capacity}) for _ in range(speech.steps)]
        self._times = 1 - np.cos(np.linspace(0, 1, speech.steps + 1, dtype=np.float32) * np.float32(0.5 * np.pi))
        self._guidance = np.array([speech.guidance], np.float32)
        self._noise = np.zeros((0, voice.mel.shape[1]), np.float32)
        self._place = _Place(
            codes=0,
            slots=np.zeros(0, np.int64),
            encoder_left=_zeros(encoder.component, "left"),
            step_lefts=(_zeros(step.component, "left"),) * speech.steps,
        )
        self._behind_prompt = self._place = self._read_prompt(voice)
        self.open()

    def open(self) -> None:
        """Begin an answer: nothing was said but the prompt."""
        self._place = self._behind_prompt
        self._waiting = np.zeros(0, np.int64)
        self._chunks_made = 0

    def push(self, codes: Sequence[int] | NDArray[np.int64]) -> Frames:
        """Take the next codes of an answer; return the mel frames (n, bins) that they complete, often none.

        Raises UsageError for a code that the bundle does not have.
        """
        return np.concatenate([self.nothing, *self.steps(codes)])

    def finish(self) -> Frames:
        """End the answer: return its last mel frames (n, bins) and be open for the next."""
        return np.concatenate([self.nothing, *self.last_steps()])

    @property
    def nothing(self) -> Frames:
        """No mel frames, (0, bins)."""
        return self._noise[:0]

    def steps(self, codes: Sequence[int] | NDArray[np.int64]) -> Iterator[Frames]:
        """Do what ``push`` does bit by bit: yield no frames after each step of the solver, a chunk's when it is done.

        Iterate to the end: the work is done on the way. Raises what ``push`` does.
        """
        new = np.asarray(codes, np.int64)
        if (unknown := new[(new < 0) | (new >= self._speech.codes)]).size:
            raise UsageError(
                f"speech code {unknown[0]}: must be 0 to {self._speech.codes - 1}; leave out what is no code"
            )
        self._waiting = np.concatenate([self._waiting, new])
        while len(self._waiting) >= (size := self._chunk()) + self._speech.lookahead_codes:
            yield from self._say(self._waiting[: size + self._speech.lookahead_codes], ended=False)
            self._waiting = self._waiting[size:]
            self._chunks_made += 1

    def last_steps(self) -> Iterator[Frames]:
        """Do what ``finish`` does bit by bit; see ``steps``."""
        if len(self._waiting):
            yield from self._say(self._waiting, ended=True)
        self.open()

    def _chunk(self) -> int:
        return self._chunks[min(self._chunks_made, len(self._chunks) - 1)]

    def _read_prompt(self, voice: Voice) -> _Place:
        """Fill the caches with the prompt, which its own mel frames lead. Its first codes stand for those behind it."""
        codes = np.concatenate([voice.codes, voice.codes[: self._speech.lookahead_codes]])
        mu, place = self._encode(codes, pad=0, place=self._place)
        if len(self._noise) < (wanted := self._prompt_frames + KEPT_OLD + self._most_frames):
            raise UsageError(
                f"voice of {len(voice.codes)} codes: wants {wanted} frames of noise, this bundle has "
                f"{len(self._noise)}; choose a shorter voice"
            )
        return _result(self._solve(mu, voice.mel, np.arange(len(mu)), place))[1]

    def _say(self, codes: NDArray[np.int64], *, ended: bool) -> Iterator[Frames]:
        """Yield the mel frames of a chunk: all its codes where the answer ``ended``, else without the look-ahead."""
        mu, place = self._encode(codes, self._speech.lookahead_codes if ended else 0, self._place)
        free = np.setdiff1d(np.arange(self._prompt_frames, self._capacity), place.slots, assume_unique=True)
        mel, place = yield from self._solve(mu, np.zeros_like(mu), free[: len(mu)], place)
        if len(place.slots) > self._prompt_frames + KEPT_OLD:
            # As published: "the prompt and the newest", but the list has the newest first, so that it is the newest and
            # the end of the prompt. The model was only ever heard like that.
            kept = np.concatenate([place.slots[: self._prompt_frames], place.slots[-KEPT_OLD:]])
            place = _Place(place.codes, kept, place.encoder_left, place.step_lefts)
        self._place = place
        yield mel

    def _encode(self, codes: NDArray[np.int64], pad: int, place: _Place) -> tuple[Frames, _Place]:
        count = len(codes) + pad - self._speech.lookahead_codes
        start = place.codes
        if start + count > self._context:
            start = self._behind_prompt.codes
        inputs: dict[str, Array] = {"start": np.array([start]), "left": place.encoder_left}
        if self._counts_pad:
            inputs |= {"codes": np.ascontiguousarray(codes), "pad": np.array([pad])}
        else:
            inputs["codes"] = np.concatenate([codes, np.full(pad, NO_CODE)])
        found = self._encoder.run(inputs)
        if not len(self._noise):
            self._noise = found["noise"]
        return found["mu"], _Place(start + count, place.slots, found["left_next"], place.step_lefts)

    def _solve(
        self, mu: Frames, cond: Frames, slots: NDArray[np.int64], place: _Place
    ) -> Generator[Frames, None, tuple[Frames, _Place]]:
        """Return the frames at the end of the way from noise, by Euler's method, and the place behind them.

        Yields no frames between two steps.
        """
        held = len(place.slots)
        seen = np.concatenate([slots, place.slots])
        mask = np.full(self._capacity, MASKED, np.float32)
        mask[seen] = 0
        shared: dict[str, Array] = {"mu": mu, "cond": cond, "speaker": self._speaker, "guidance": self._guidance}
        shared |= {"slots": slots, "mask": mask}
        x = self._noise[held : held + len(mu)]
        time = self._times[0]
        lefts: list[Array] = []
        for call, left, after in zip(self._steps, place.step_lefts, self._times[1:], strict=True):
            if lefts:
                yield self.nothing
            found = call.run(shared | {"x": x, "t": np.array([time]), "left": left})
            width = after - time
            x = x + width * found["velocity"]
            time = time + width
            lefts.append(found["left_next"])
        return x, _Place(place.codes, seen, place.encoder_left, tuple(lefts))


def _result(work: Generator[object, None, _T]) -> _T:
    """Return what a generator returns, having done all of its work."""
    result: list[_T] = []

    def run() -> Iterator[object]:
        result.append((yield from work))

    for _ in run():
        pass
    return result[0]


def count_slots(prompt_frames: int, most_frames: int) -> int:
    """Return the slots of a stream's attention; ``most_frames``: of one call.

    The prompt's own are never given away, so that the next answer can begin behind it again.
    """
    return prompt_frames + max(prompt_frames, KEPT_OLD) + most_frames


def _zeros(component: Component, name: str) -> Array:
    spec = next(spec for spec in component.inputs if spec.name == name)
    return np.zeros([size for size in spec.shape if isinstance(size, int)], spec.dtype)


def check_voice(voice: Voice, speech: FlowSpeech, step: Component) -> None:
    """Raise BundleFormatError unless a voice has the sizes of the bundle; ``step``: its ``flow_step``."""
    sizes = {spec.name: spec.shape[-1] for spec in step.inputs}
    rules = (
        ("sample rate", voice.sample_rate_hz, speech.sample_rate_hz, voice.sample_rate_hz == speech.sample_rate_hz),
        ("mel bins", voice.mel.shape[1], sizes["x"], voice.mel.shape[1] == sizes["x"]),
        ("speaker numbers", len(voice.speaker), sizes["speaker"], len(voice.speaker) == sizes["speaker"]),
        ("largest code", int(voice.codes.max()), f"below {speech.codes}", bool((voice.codes < speech.codes).all())),
    )
    for name, found, wanted, holds in rules:
        if not holds:
            raise BundleFormatError(f"voice: {name} {found}, this bundle wants {wanted}; make the voice again with it")
