"""Talker: the speaker of Qwen3-Omni, a second language model that reads along and writes codes of speech.

    user turns -> talker_adapter -> talker KV            while the user talks
    text token -> talker_adapter -> talker -> code 0 -> code_predictor -> codes 1.. -> decoder -> samples

One frame of codes per text token, then frames until the talker ends. What it is told, and in which order, is that of
Qwen3OmniMoeForConditionalGeneration.generate (transformers), which waits for the whole text. Knows ids, not text.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.bundle import Role, Sampling, TalkerSpeech
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.answer.sampler import CodeLimits, Sampler, sampler
from edgekit.runtime.answer.speaker import Cut
from edgekit.runtime.engine import Array, Engine
from edgekit.runtime.speak.spans import CODE_PREDICTOR, DECODER, TALKER, TALKER_ADAPTER
from edgekit.timing import Trace

LONGEST_FRAMES = 24  # of a piece; what plans of the decoder are built for
_HEAD_TOKENS = 3  # turn start, role, newline: what an answer's turn begins with
_HEAD_PADS = 4  # of text, beside the codec's own head: nothink, think begin and end, speaker


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


@dataclass(frozen=True, slots=True, eq=False)
class TalkerMark:
    """Where a Talker stood: whose turn it was, rows of the users' in its KV, and the draws."""

    turns: "_Turns"
    user_rows: int
    full: bool
    draws: tuple[object, object]


class Talker:
    """One stream's voice; a Speaker. Iterate ``say`` and ``finish`` to their ends: the work is done on the way.

    ``cut`` says why the speech of the answer ended before its end: ``frames`` after the bundle's longest answer,
    ``context`` where the talker's KV cache is full (then it stays silent until ``open``), None where it was not cut. It
    is valid from ``finish`` to the next answer.
    """

    def __init__(
        self,
        speech: TalkerSpeech,
        engines: Mapping[str, Engine],
        tables: TalkerTables,
        trace: Trace,
        options: TalkerOptions,
    ) -> None:
        """Bind the engines ``talker_adapter``, ``talker``, ``code_predictor`` and ``decoder``; prepare fixed rows.

        Raises UsageError for an unknown speaker and for sampling or pieces that cannot be.
        """
        self.sample_rate_hz = speech.sample_rate_hz
        self.cut: Cut | None = None
        self._speech, self._text, self._trace = speech, tables.text, trace
        self._adapter = engines["talker_adapter"].bind({})
        self._turns = _Turns(speech)
        self._codes = _Codes(speech, engines, tables, trace, options)
        self._sound = _Sound(engines["decoder"], speech.codebooks, trace, options)
        self._user_rows = 0  # the first of the talker's KV; an answer's go when the next turn comes
        self._full = False
        self._begun = self._going = False
        texts = self._project(tables.text.rows((speech.tts_pad, speech.tts_bos, speech.tts_eos)))
        self._pad, bos, self._eos = texts[:1], texts[1:2], texts[2:]
        speaker = _speaker(options.speaker, speech)
        thoughts = (speech.codec_nothink, speech.codec_think_bos, speech.codec_think_eos)
        codec = tables.codec.rows((*thoughts, speaker, speech.codec_pad, speech.codec_bos))
        silent = np.zeros((_HEAD_TOKENS, tables.codec.width), np.float32)
        self._head = np.concatenate((silent, codec[:_HEAD_PADS] + self._pad, codec[-2:-1] + bos, codec[-1:]))

    def open(self) -> None:
        """Begin a conversation: forget every turn."""
        self._turns = _Turns(self._speech)
        self._user_rows, self._full = 0, False
        self._begun = self._going = False

    def read(self, tokens: Sequence[int] | None, rows: Array, hidden: Array | None) -> None:
        """Take what the backbone is told; see Speaker. The user's turns go into the talker's KV at once.

        An answer that was being spoken ends here. Raises UsageError for a turn whose role the talker does not know.
        """
        self._begun = self._going = False
        heard = tokens is None
        if tokens is None:
            assert hidden is not None, "sound is heard through the backbone"
            rows = hidden if self._turns.role == "user" else hidden[:0]
        else:
            rows = self._turns.read(tokens, rows)
        self._full = self._full or self._user_rows + len(rows) > self._speech.context_frames
        if self._full or not len(rows):
            return
        self._codes.seek(self._user_rows)
        self._codes.append(self._project(rows, heard))
        self._user_rows += len(rows)

    def takes(self, token: int) -> bool:  # noqa: ARG002 - another Speaker's tokens are sound
        """Return False: every token of an answer is text."""
        return False

    def heard_tokens(self, seconds: float) -> int | None:  # noqa: ARG002 - as Speaker has it
        """Return None: a frame is no token, the talker goes on long after the last one."""
        return None

    def mark(self) -> "TalkerMark":
        """Return where the conversation stands; see Speaker."""
        return TalkerMark(self._turns.copy(), self._user_rows, self._full, self._codes.mark())

    def back(self, mark: "TalkerMark") -> None:
        """Go back to a mark; see Speaker."""
        self._turns, self._user_rows, self._full = mark.turns.copy(), mark.user_rows, mark.full
        self._codes.back(mark.draws)
        self._begun = self._going = False

    def say(self, token: int) -> Iterator[Array | None]:
        """Take the next token of the answer and yield samples; see Speaker.

        Raises BundleFormatError if ``read`` was not told the beginning of the answer's turn before the first.
        """
        row = self._text.rows((token,))
        if self._begun:
            if self._going:
                yield from self._speak(self._project(row))
            return
        self._begun = self._going = True
        self.cut = None
        head = self._turns.head
        if len(head) < _HEAD_TOKENS:
            raise BundleFormatError(
                f"protocol: {len(head)} tokens begin an answer's turn, the talker needs {_HEAD_TOKENS}; export it again"
            )
        text = self._project(np.concatenate((head, row)))
        embeds = self._head.copy()
        embeds[:_HEAD_TOKENS] += text[:_HEAD_TOKENS]
        embeds[-1] += text[-1]
        self._codes.seek(self._user_rows)
        self._sound.reset()
        if self._full or not self._codes.has_room(len(embeds)):
            self._end("context")
            return
        yield from self._sounding(self._codes.begin(embeds))

    def finish(self) -> Iterator[Array | None]:
        """End the answer and yield the rest of its samples; see Speaker. Nothing if nothing was said."""
        if not self._begun:
            self.cut = None
            return
        text = self._eos
        while self._going:
            yield from self._speak(text)
            yield None
            text = self._pad
        yield from self._sound.flush()
        self._begun = False

    def _speak(self, text: Array) -> Iterator[Array]:
        """Write the next frame with one more row of text, (1, width)."""
        if self._codes.has_room(1):
            yield from self._sounding(self._codes.next(text))
        else:
            self._end("context")

    def _sounding(self, codes: Array | None) -> Iterator[Array]:
        """Yield the samples of a frame, if it makes a piece full; None ends the answer."""
        if codes is None:
            self._end("frames" if self._codes.cut else None)
        else:
            yield from self._sound.push(codes)

    def _end(self, cut: Cut | None) -> None:
        self._going, self.cut = False, cut

    def _project(self, rows: Array, heard: bool = False) -> Array:
        """Return rows of the backbone (n, width) as the talker's."""
        with self._trace.span(TALKER_ADAPTER, len(rows)):
            inputs = {"rows": rows, "heard": np.full((len(rows), 1), heard)}
            return self._adapter.run(inputs)["embeds"]


class _Turns:
    """Whose turn each token belongs to."""

    def __init__(self, speech: TalkerSpeech) -> None:
        self._start = speech.turn_start
        self._roles: dict[int, Role] = {token: role for role, token in speech.roles.items()}
        self._waiting: list[int] = []
        self._waiting_rows: list[Array] = []
        self.role: Role | None = None
        self.head = np.zeros((0, 0), np.float32)  # the first rows of the latest assistant's turn

    def copy(self) -> "_Turns":
        """Return another that goes on from here."""
        other = copy(self)
        other.take_copies()
        return other

    def take_copies(self) -> None:
        """Share no list with another."""
        self._waiting, self._waiting_rows = list(self._waiting), list(self._waiting_rows)

    def read(self, tokens: Sequence[int], rows: Array) -> Array:
        """Return those of the rows (n, width) that are in a user's turn; remember how an assistant's turn begins.

        A turn's start waits for the token after it, which is its role.
        """
        known, rows = [*self._waiting, *tokens], np.concatenate((*self._waiting_rows, rows))
        self._waiting, self._waiting_rows = [], []
        if known and known[-1] == self._start:
            self._waiting, self._waiting_rows = [known.pop()], [rows[-1:]]
            rows = rows[:-1]
        told = np.zeros(len(known), bool)
        starts = [place for place, token in enumerate(known) if token == self._start]
        for begin, end in zip([0, *starts], [*starts, len(known)], strict=True):
            if begin < end and known[begin] == self._start:
                self.role = self._role_of(known[begin + 1])
                self.head = rows[:0]
            if self.role == "user":
                told[begin:end] = True
            elif self.role == "assistant":
                self.head = np.concatenate((self.head, rows[begin:end]))[:_HEAD_TOKENS]
        return rows[told]

    def _role_of(self, token: int) -> Role:
        if token not in self._roles:
            roles = ", ".join(f"{role} ({known})" for known, role in self._roles.items())
            raise UsageError(f"prompt: token {token} begins a turn, the talker knows {roles}; change the prompt")
        return self._roles[token]


class _Codes:
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
        self._max_frames, self._frames, self.cut = speech.max_frames, 0, False
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
        self._frames, self.cut = 0, False
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
        code = self._first_code.pick(outputs["logits"][0], first=not self._frames)
        self.cut = code != self._eos and self._frames == self._max_frames
        if code == self._eos or self.cut:
            return None
        self._frames += 1
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
            code = self._other_codes.pick(logits[0], first=step == 0)
            codes[step + 1], rows[step + 1] = code, self._code_table.row(step * self._size + code)
            embeds = self._single
            embeds[0] = rows[step + 1]
        return codes


class _Sound:
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


def _speaker(name: str | None, speech: TalkerSpeech) -> int:
    """Return the codec token of a speaker, in any case of letters; of the bundle's usual one for None."""
    # A manifest's names have no order: the file is written sorted.
    found = (speech.speaker or min(speech.speakers)) if name is None else name.lower()
    if found not in speech.speakers:
        raise UsageError(
            f"voice: '{name or found}' is not in this bundle; choose one of: {', '.join(sorted(speech.speakers))}"
        )
    return speech.speakers[found]
