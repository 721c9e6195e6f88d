"""Frames of codes, and their sound: what a Talker writes with two models, and a third one makes audible.

Knows codec ids and rows; knows no text and no turns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.bundle import Sampling
from edgekit.bundle.speech import TalkerSpeech
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.answer.sampler import CodeLimits, Sampler, sampler
from edgekit.runtime.engine import Array, Engine
from edgekit.spans import SPEAK, register
from edgekit.timing import Trace

TALKER = register("talker", "rows", "a run of the talker", within=SPEAK)
CODE_PREDICTOR = register("code_predictor", "codes", "a frame's next code", within=SPEAK)
DECODER = register("decoder", "frames of codes", "frames of codes to samples", within=SPEAK)
LONGEST_FRAMES = 24  # of a piece; what plans of the decoder are built for


class Table(Protocol):
    """Rows by index; a TokenTable is one."""

    width: int
    vocabulary: int

    def rows(self, tokens: Sequence[int]) -> Array:
        """Return rows (n, width) float32."""
        ...

    def row(self, token: int) -> Array:
        """Return one row (width,) float32, not to be written to."""
        ...


@dataclass(frozen=True, slots=True)
class TalkerTables:
    """What the host looks up: ``text`` the backbone's token table, ``codec`` and ``codes`` those of TalkerSpeech."""

    text: Table
    codec: Table
    codes: Table


@dataclass(frozen=True, slots=True)
class TalkerOptions:
    """How a Talker speaks; what is None is as the bundle says, its first speaker for one.

    Audio is made in pieces of ``first_frames``, then twice as many each time up to ``longest_frames``: a small first
    piece is heard early, longer ones cost less; plans for a GPU admit none beyond LONGEST_FRAMES. The same ``seed``
    gives the same speech; None other speech every time. ``samplers``, of the first code and of the others, choose in
    place of both samplings and the seed.
    """

    speaker: str | None = None
    seed: int | None = 0
    talker_sampling: Sampling | None = None
    code_sampling: Sampling | None = None
    first_frames: int = 2
    longest_frames: int = LONGEST_FRAMES
    samplers: tuple[Sampler, Sampler] | None = None


class Codes:
    """Frames of codes: the talker's KV and the code predictor's, and the choice of codes.

    ``cut``: whether the last answer ended because it was the longest that may be.
    """

    def __init__(
        self,
        speech: TalkerSpeech,
        engines: Mapping[str, Engine],
        tables: TalkerTables,
        trace: Trace,
        options: TalkerOptions,
    ) -> None:
        self._codec_table, self._code_table, self._trace = tables.codec, tables.codes, trace
        self._context, self._eos, self._size = speech.context_frames, speech.codec_eos, speech.codebook_size
        self._max_frames, self.cut = speech.max_frames, False
        self._made: list[int] = []  # first codes of the answer so far
        self._talker = engines["talker"].bind({"context": speech.context_frames})
        self._predictor = engines["code_predictor"].bind({"context": speech.codebooks})
        self._first_code, self._other_codes = options.samplers or _samplers(speech, options)
        width, wanted = tables.codec.width, (speech.codebooks - 1) * speech.codebook_size
        if (tables.codes.vocabulary, tables.codes.width) != (wanted, width):
            raise BundleFormatError(
                f"code_table: {tables.codes.vocabulary} rows of {tables.codes.width}, "
                f"{speech.codebooks} codebooks of {speech.codebook_size} need {wanted} of {width}; export it again"
            )
        # Arrays that every frame uses again: an engine binds an array once.
        self._start, self._no_rows, self._last_row = (np.zeros(size, np.int64) for size in (1, 0, 1))
        self._embeds = np.zeros((1, width), np.float32)
        self._codes = np.zeros(speech.codebooks, np.int64)
        self._embedded = np.zeros((speech.codebooks, width), np.float32)  # rows of this frame's codes
        self._pair, self._single = np.zeros((2, width), np.float32), np.zeros((1, width), np.float32)
        self._predictor_start, self._step = np.zeros(1, np.int64), np.zeros(1, np.int64)

    def mark(self) -> tuple[object, object]:
        """Return where the draws of the first code and of the others stand."""
        return self._first_code.mark(), self._other_codes.mark()

    def back(self, mark: tuple[object, object]) -> None:
        """Draw again what was drawn since the mark."""
        for draws, one in zip((self._first_code, self._other_codes), mark, strict=True):
            draws.back(one)

    def seek(self, position: int) -> None:
        """Go on after the first ``position`` rows of the talker's KV."""
        self._start[0] = position

    def has_room(self, rows: int) -> bool:
        """Return whether the talker's KV takes ``rows`` more."""
        return int(self._start[0]) + rows <= self._context

    def append(self, embeds: Array) -> None:
        """Tell the talker rows (n, width) and ask for nothing."""
        self._run(embeds, self._no_rows)

    def begin(self, embeds: Array) -> Array | None:
        """Tell the talker how the answer begins, rows (n, width), and return its first frame; see ``next``."""
        self._made, self.cut = [], False
        return self._frame(self._run(embeds, np.array([len(embeds) - 1], np.int64)))

    def next(self, text: Array) -> Array | None:
        """Return the next frame, codes (codebooks,) valid until the one after, or None at the end of speech.

        text: (1, width), the row of text that goes with the frame before.
        """
        np.add.reduce(self._embedded, axis=0, keepdims=True, out=self._embeds)
        self._embeds += text
        return self._frame(self._run(self._embeds, self._last_row))

    def _run(self, embeds: Array, rows: Array) -> dict[str, Array]:
        with self._trace.span(TALKER, len(embeds)):
            inputs = {"embeds": embeds, "start": self._start, "logit_rows": rows}
            outputs = self._talker.run(inputs)
        self._start += len(embeds)
        return outputs

    def _frame(self, outputs: dict[str, Array]) -> Array | None:
        code = self._first_code.pick(outputs["logits"][0], self._made)
        self.cut = code != self._eos and len(self._made) == self._max_frames
        if code == self._eos or self.cut:
            return None
        self._made.append(code)
        codes, rows = self._codes, self._embedded
        codes[0], rows[0] = code, self._codec_table.row(code)
        self._pair[0], self._pair[1] = outputs["hidden"][0], rows[0]
        embeds, self._predictor_start[0] = self._pair, 0
        for step in range(len(codes) - 1):
            self._step[0] = step
            with self._trace.span(CODE_PREDICTOR):
                inputs: dict[str, Array] = {"embeds": embeds, "start": self._predictor_start, "step": self._step}
                logits = self._predictor.run(inputs)["logits"]
            self._predictor_start += len(embeds)
            code = self._other_codes.pick(logits[0], codes[1 : step + 1].tolist())
            codes[step + 1], rows[step + 1] = code, self._code_table.row(step * self._size + code)
            embeds = self._single
            embeds[0] = rows[step + 1]
        return codes


class Sound:
    """Samples of one answer's codes, decoded in growing pieces."""

    def __init__(self, decoder: Engine, codebooks: int, trace: Trace, options: TalkerOptions) -> None:
        if not 1 <= options.first_frames <= options.longest_frames:
            raise UsageError(
                f"first_frames: {options.first_frames}, 1 to {options.longest_frames} is needed (longest_frames); "
                "change one of them"
            )
        self._call, self._trace = decoder.bind({}), trace
        self._first, self._longest = options.first_frames, options.longest_frames
        self._codes = np.zeros((options.longest_frames, codebooks), np.int64)
        self._start = np.zeros(1, np.int64)
        self._piece, self._waiting = self._first, 0

    def reset(self) -> None:
        """Begin an answer."""
        self._call.reset()
        self._start[0] = 0
        self._piece, self._waiting = self._first, 0

    def push(self, codes: Array) -> Iterator[Array]:
        """Take a frame of codes (codebooks,) and yield samples (n,) where it makes a piece full."""
        self._codes[self._waiting] = codes
        self._waiting += 1
        if self._waiting == self._piece:
            yield from self.flush()
            self._piece = min(2 * self._piece, self._longest)

    def flush(self) -> Iterator[Array]:
        """Yield the samples of the frames that wait."""
        if not self._waiting:
            return
        with self._trace.span(DECODER, self._waiting):
            found = self._call.run({"codes": self._codes[: self._waiting], "start": self._start})
        samples = found["samples"]
        if "lead" in found:  # where a graph cuts nothing by a value: so many samples are none
            samples = samples[int(found["lead"][0]) :]
        self._start += self._waiting
        self._waiting = 0
        if len(samples):
            yield samples


def first_code_limits(speech: TalkerSpeech) -> CodeLimits:
    """Return what a frame's first code may be: the others may be any."""
    return CodeLimits(stop=(speech.codec_eos,), suppress=speech.codec_suppress)


def _samplers(speech: TalkerSpeech, options: TalkerOptions) -> tuple[Sampler, Sampler]:
    """Return what draws the first code and the others."""
    seeds = (None, None) if options.seed is None else ((options.seed, 0), (options.seed, 1))
    first, others = options.talker_sampling or speech.talker_sampling, options.code_sampling or speech.code_sampling
    return (
        sampler(first_code_limits(speech), first, seeds[0], "talker"),
        sampler(CodeLimits(), others, seeds[1], "code_predictor"),
    )
