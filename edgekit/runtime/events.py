"""What a Stream emits, as plain data with one JSON form. Times are seconds of audio since the first pushed sample.

Every Event has a ``kind``, a name for programs. ``answer`` numbers the answers of a stream, counted from 1; texts that
are written while the user talks carry the number of the answer to come.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.reprs import fields_line


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The Gate opened; ``at_s`` is where the sound began, pre-roll included."""

    kind: ClassVar[str] = "speech_started"
    at_s: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The Gate closed; ``at_s`` is the last sample that counted, ``decided_at_s`` when that became known.

    It comes before the final Text of what was said.
    """

    kind: ClassVar[str] = "speech_stopped"
    at_s: float
    decided_at_s: float


@dataclass(frozen=True, slots=True, repr=False)
class Provisional:
    """The user may be done: this is the whole text then, before SpeechStopped and the final Text, which is the same.

    Only with ``provisional_ms`` of StreamOptions. Either SpeechStopped follows, with the answer as it is shown here, or
    Withdrawn. ``at_s`` is the last sample that counted, ``decided_at_s`` when it was taken for the end. It comes as
    time allows: none comes where SpeechStopped, or that speech goes on, is known before the text is.
    """

    kind: ClassVar[str] = "provisional"
    text: str
    answer: int
    at_s: float
    decided_at_s: float
    start_s: float
    tokens: tuple[int, ...] = ()
    language: str | None = None
    language_probability: float | None = None

    def __repr__(self) -> str:
        return fields_line(self)


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Speech goes on, from ``at_s``: what Provisional showed of this answer is no end; the next text replaces it."""

    kind: ClassVar[str] = "withdrawn"
    answer: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it stands in the text, punctuation beside it included, and when it was said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, repr=False)
class Segment:
    """A stretch of sound and what was said in it, or answered to it.

    The bounds are the model's own times where it wrote some (``times`` of StreamOptions, and speech that went on longer
    than the encoder hears at once), else those of the utterance: from where the sound began to count, pre-roll
    included, to where it ceased to. ``text`` is empty where sound counted and no word came of it. ``words``: with the
    times of each, if they were asked for. ``language``, ``language_probability``: see Text.
    """

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...] = ()
    language: str | None = None
    words: tuple[Word, ...] = ()
    language_probability: float | None = None

    def __repr__(self) -> str:
        return fields_line(self)


@dataclass(frozen=True, slots=True, repr=False)
class Text:
    """Text of one utterance so far (``final`` False) or whole (``final`` True), with the bounds of what it is about.

    Each one replaces the one before. While the user talks a text is a partial, which the next may revise: its first
    ``stable`` characters, ``stable_text``, are whole words that stand, and grow from one to the next; the rest,
    ``unstable_text``, may be anything. ``revises``: characters that stood in the one before, from where the two part,
    and do no more. Where partials are ``committed`` there are none: what stands begins the final text. Where they are
    ``agreed`` the final text is as without partials, and a text that revises comes before it if it must.

    After the end of speech ``stable`` is the whole length, and only the end may still go: a repeat, or what belongs to
    the next text; or all of it, where the gate lets through more than speech and nobody spoke. Of committed partials
    it is what was. It is 0 where the text goes on from another in the midst of speech, and may begin with the last
    words of that one.

    ``language``: of a multilingual model that writes down speech, the one that was given or detected; else None.
    ``language_probability``: of a detected one, after all that the stream has heard. ``segments``: of a final text
    whose times are known. ``truncated``: the text was ended before the model ended it; TextCut says why.
    """

    kind: ClassVar[str] = "text"
    text: str
    final: bool
    start_s: float
    end_s: float
    tokens: tuple[int, ...] = ()
    stable: int = 0
    answer: int = 0
    language: str | None = None
    language_probability: float | None = None
    segments: tuple[Segment, ...] = ()
    truncated: bool = False
    revises: str = ""

    @property
    def stable_text(self) -> str:
        """What of the text stands."""
        return self.text[: self.stable]

    @property
    def unstable_text(self) -> str:
        """The rest of the text, which the next may revise."""
        return self.text[self.stable :]

    def __repr__(self) -> str:
        return fields_line(self)


def whole_segment(text: Text) -> Segment:
    """Return a text as one segment, where its times are not known more closely."""
    return Segment(
        text.start_s, text.end_s, text.text, text.tokens, text.language,
        language_probability=text.language_probability,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextCut:
    """Words may be missing from the answer's text, which came just before.

    The model did not end it: it has as many tokens as an answer may have (``max_tokens``) or a conversation
    (``max_length``), the KV cache is full (``context``), nobody says so many in that time (``rate``), or it began to
    repeat itself (``repeats``). Or the model did, but it is ``empty`` though speech goes on behind it, or has no word
    of the seconds before ``at_s``; or it answers the first part of what was said alone, of which the KV cache holds no
    more (``sound``).
    """

    kind: ClassVar[str] = "text_cut"
    reason: Literal["max_tokens", "max_length", "context", "rate", "repeats", "empty", "sound"]
    at_s: float
    answer: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Thought:
    """What the model thinks before it answers, so far or whole (``final``); each one replaces the one before."""

    kind: ClassVar[str] = "thought"
    text: str
    final: bool
    start_s: float
    end_s: float
    answer: int = 0

    def __repr__(self) -> str:
        return fields_line(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Audio:
    """A piece of the spoken answer, to be played right after the one before. samples: (n,) float32 in [-1, 1]."""

    kind: ClassVar[str] = "audio"
    samples: NDArray[np.float32]
    sample_rate_hz: int
    answer: int = 0

    def __repr__(self) -> str:
        return fields_line(self)


@dataclass(frozen=True, slots=True)
class AudioCut:
    """The answer's speech was cut short: ``frames``, it is the longest there is; ``context``, the KV cache is full."""

    kind: ClassVar[str] = "audio_cut"
    reason: Literal["frames", "context"]
    at_s: float
    answer: int = 0


@dataclass(frozen=True, slots=True)
class AudioEnded:
    """The answer's speech is whole: no Audio of it follows. None comes of an answer that was interrupted or hushed."""

    kind: ClassVar[str] = "audio_ended"
    at_s: float
    answer: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Interrupted:
    """An answer was ended by ``Stream.interrupt``: ``text`` is what the conversation keeps of it.

    ``exact``: whether that is cut at the tokens whose sound was heard; otherwise by its share of the text. Where the
    answer was still in the making no final Text of it follows.
    """

    kind: ClassVar[str] = "interrupted"
    text: str
    tokens: tuple[int, ...]
    exact: bool
    at_s: float
    answer: int

    def __repr__(self) -> str:
        return fields_line(self)


@dataclass(frozen=True, slots=True)
class LevelChanged:
    """The Policy chose another ComputeLevel."""

    kind: ClassVar[str] = "level_changed"
    level: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Forgot:
    """The context was full: the oldest ``turns`` of the conversation are not remembered any more."""

    kind: ClassVar[str] = "forgot"
    turns: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Lag:
    """The caller fell behind and dropped samples before they reached the Stream."""

    kind: ClassVar[str] = "lag"
    dropped_samples: int
    at_s: float


Event = (
    SpeechStarted
    | SpeechStopped
    | Provisional
    | Withdrawn
    | Thought
    | Text
    | TextCut
    | Audio
    | AudioCut
    | AudioEnded
    | Interrupted
    | LevelChanged
    | Forgot
    | Lag
)


def is_result(event: Event) -> bool:
    """Return whether an event is a final Text, or says what one lacks."""
    return isinstance(event, TextCut) or (isinstance(event, Text) and event.final)


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as plain data for JSON: ``event``, its kind, then its fields.

    Of Audio the samples are left out: their number and length in ``seconds`` stand for them. A Text's ``stable_text``
    and ``unstable_text`` stand behind its fields, so that nobody has to count characters.
    """
    fields: dict[str, Any] = {"event": event.kind}
    if isinstance(event, Audio):
        count, rate = len(event.samples), event.sample_rate_hz
        return fields | {
            "samples": count, "seconds": round(count / rate, 6), "sample_rate_hz": rate, "answer": event.answer,
        }  # fmt: skip
    if isinstance(event, Text):
        texts = {"stable_text": event.stable_text, "unstable_text": event.unstable_text}
        return fields | dataclasses.asdict(event) | texts
    return fields | dataclasses.asdict(event)
