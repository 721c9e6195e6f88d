"""Talker: the speaker of Qwen3-Omni, a second language model that reads along and writes codes of speech.

    user turns -> talker_adapter -> talker KV            while the user talks
    text token -> talker_adapter -> talker -> code 0 -> code_predictor -> codes 1.. -> decoder -> samples

One frame of codes per text token, then frames until the talker ends. What it is told, and in which order, is that of
Qwen3OmniMoeForConditionalGeneration.generate (transformers), which waits for the whole text. Knows ids, not text.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import Role
from edgekit.bundle.speech import TalkerSpeech
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.sampler import CodeLimits, Greedy, Teacher
from edgekit.runtime.answer.speaker import Cut
from edgekit.runtime.engine import Array, Engine, Sizes
from edgekit.runtime.speak.base import SpeechKind
from edgekit.runtime.speak.frames import (
    LONGEST_FRAMES,
    Codes,
    Sound,
    TalkerOptions,
    TalkerTables,
    first_code_limits,
)
from edgekit.runtime.speak.rehearsal import Rehearsal, Spoken, sounding
from edgekit.runtime.speak.setting import SpeakerSetting
from edgekit.spans import SPEAK, register
from edgekit.timing import Trace

TALKER_ADAPTER = register("talker_adapter", "rows", "rows of the backbone to the talker's", within=SPEAK)
_HEAD_TOKENS = 3  # turn start, role, newline: what an answer's turn begins with
_HEAD_PADS = 4  # of text, beside the codec's own head: nothink, think begin and end, speaker


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
        self._codes = Codes(speech, engines, tables, trace, options)
        self._sound = Sound(engines["decoder"], speech.codebooks, trace, options)
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
        return TalkerMark(copy(self._turns), self._user_rows, self._full, self._codes.mark())

    def back(self, mark: "TalkerMark") -> None:
        """Go back to a mark; see Speaker."""
        self._turns, self._user_rows, self._full = copy(mark.turns), mark.user_rows, mark.full
        self._codes.back(mark.draws)
        self._begun = self._going = False

    def next_row(self, token: int, hidden: Array | None) -> None:
        """Leave the lead to the backbone: it never hears what the talker says."""

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


def _speaker(name: str | None, speech: TalkerSpeech) -> int:
    """Return the codec token of a speaker, in any case of letters; of the bundle's usual one for None."""
    # A manifest's names have no order: the file is written sorted.
    found = (speech.speaker or min(speech.speakers)) if name is None else name.lower()
    if found not in speech.speakers:
        raise UsageError(
            f"voice: '{name or found}' is not in this bundle; choose one of: {', '.join(sorted(speech.speakers))}"
        )
    return speech.speakers[found]


def _open(speech: TalkerSpeech, setting: SpeakerSetting) -> Talker:
    options = TalkerOptions(speaker=setting.voice, seed=setting.seed)
    return Talker(speech, setting.engines, _tables(speech, setting), setting.trace, options)


def _tables(speech: TalkerSpeech, setting: SpeakerSetting) -> TalkerTables:
    codec, codes = (TokenTable(setting.bundle, table) for table in (speech.codec_table, speech.code_table))
    return TalkerTables(setting.table, codec, codes)


def _free_sizes(speech: TalkerSpeech, context_tokens: int) -> dict[str, Sizes]:
    """Return those of each component; a frame is a token to the talker."""
    most = speech.context_frames
    return {
        "talker_adapter": {"n": (1, 1, context_tokens)},
        "talker": {"tokens": (1, 1, most), "rows": (0, 1, most), "context": (most, most, most)},
        "code_predictor": {"tokens": (1, 1, speech.codebooks)},
        "decoder": {"frames": (1, LONGEST_FRAMES, LONGEST_FRAMES)},
    }


def _state_sizes(speech: TalkerSpeech) -> dict[str, dict[str, int]]:
    return {"talker": {"context": speech.context_frames}, "code_predictor": {"context": speech.codebooks}}


def _voices(speech: TalkerSpeech) -> tuple[str, ...]:
    return tuple(sorted(speech.speakers))


def _rehearse(speech: TalkerSpeech, rehearsal: Rehearsal) -> Spoken:
    """Let a Talker say an answer; it hears the turn through the model's own backbone."""
    forced, books = rehearsal.forced, speech.codebooks
    told = None if forced is None else forced.codes
    first = Teacher(
        Greedy(first_code_limits(speech), component="talker"), None if told is None else told[:, 0].tolist(),
        speech.codec_eos, at_most=min(rehearsal.frames, speech.max_frames),
    )  # fmt: skip
    others = Teacher(
        Greedy(CodeLimits(), component="code_predictor"), None if told is None else told[:, 1:].ravel().tolist(), 0
    )
    setting = rehearsal.setting
    options = TalkerOptions(samplers=(first, others))
    talker = Talker(speech, setting.engines, _tables(speech, setting), setting.trace, options)
    said, samples = sounding(talker, rehearsal.answer(rehearsal.feed(), talker))
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


KIND: SpeechKind[TalkerSpeech] = SpeechKind(
    name="talker",
    components=("talker_adapter", "talker", "code_predictor", "decoder"),
    open=_open,
    free_sizes=_free_sizes,
    state_sizes=_state_sizes,
    voices=_voices,
    rehearse=_rehearse,
)
