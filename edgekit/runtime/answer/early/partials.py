"""Partials: text of an utterance that still goes on: when it is written anew, how much of it stands, what is shown.

Knows times, texts and how certain tokens are; knows nothing of engines. Work asks it, the Answerer writes.

A word stands when all its tokens and those before are certain, and another word follows it, or the end of the sound is
silent and the model ends there. A token is certain that leads every other word by ``SURE``, or whose lead changed by so
little since the last draft that as much three times over would leave it ahead. How soon that is, and how often it is
wrong: profiles/bench/partial-text.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.bundle import ComputeLevel, Manifest
from edgekit.runtime.answer.answerer import Answerer
from edgekit.runtime.answer.early.drafts import NO_DRAFT, NOT_BEGUN, Begun, Draft, Wanted, begins_word
from edgekit.runtime.answer.lookup import agreed, loop_start
from edgekit.runtime.answer.text import UNFINISHED, Tokenizer
from edgekit.runtime.events import Text
from edgekit.runtime.policy import Observation, draft_due

PartialsKind = Literal["agreed", "committed"]
TOKENS_PER_S = 8  # five quick words of English a second, at 1.3 to 1.6 tokens each; ordinary speech has half of it
SURE = 1.0  # nats
STEADY, CHANGES = 0.1, 3.0  # nats, and how many times the last change may come again
SILENT_S = 0.2


@dataclass(frozen=True, slots=True)
class SoFar:
    """The sound that a draft is of: the number of its answer, the stream times of where its own words begin and of its
    end, the same as seconds of the answer's sound, and as sample of the stream.
    """

    answer: int
    start_s: float
    end_s: float
    own_s: float
    heard_s: float
    end_sample: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the caller knows of an utterance when its answer comes: the text, and what of it is ``stable``.

    ``stable`` is None where nobody asked for partials. ``binds``: the answer begins with what is stable, its tokens
    being ``begun``.
    """

    shown: str = ""
    stable: str | None = None
    binds: bool = False
    begun: Begun = NOT_BEGUN


@dataclass(frozen=True, slots=True)
class Partial:
    """A text to show, how many of its first characters stand, and which ones that stood are taken back before."""

    text: str
    stable: int
    revises: str = ""


@dataclass(slots=True)
class Partials:
    """The drafts of one utterance after another. ``shown`` is the text that the caller knows of the present one.

    ``kind``: None where nobody asked for any. ``max_repeats``: see ``lookup.loop``.
    """

    rate: int
    chunk_samples: int
    tokenizer: Tokenizer
    max_repeats: int | None = None
    kind: PartialsKind | None = "agreed"
    shown: str = ""
    stable: str = ""  # of it, what stands
    cost_ms: float = 0.0  # of the last draft
    _begun: Begun = NOT_BEGUN  # the tokens of ``stable``
    _draft: Draft = NO_DRAFT  # the last one
    _end: int = 0  # of the sound that it knew, in samples
    _voice: tuple[int, int] = (0, 0)  # from the first sounding sample after that to the last

    @classmethod
    def of(cls, manifest: Manifest, tokenizer: Tokenizer, asked: bool | PartialsKind) -> "Partials":
        """Return those of a bundle, as StreamOptions ask for them."""
        front_end, kind = manifest.front_end, ("agreed" if asked is True else asked or None)
        chunk_samples = manifest.grid.chunk_frames * front_end.hop_samples
        return cls(front_end.sample_rate_hz, chunk_samples, tokenizer, manifest.protocol.max_repeats, kind)

    def open(self, at_sample: int) -> None:
        """Begin an utterance. What a draft costs is known from the one before."""
        self.shown = self.stable = ""
        self._begun, self._draft = NOT_BEGUN, NO_DRAFT
        self._end, self._voice = at_sample, (at_sample, at_sample)

    @property
    def known(self) -> Known:
        """What the caller knows of the present utterance."""
        binds = self.kind == "committed"
        return Known(self.shown, self.stable if self.kind else None, binds, self._begun if binds else NOT_BEGUN)

    def hear(self, start_sample: int, end_sample: int) -> None:
        """Take note of where the Gate heard something."""
        start, end = self._voice
        self._voice = (start if end > self._end else start_sample, end_sample)

    def due(self, end_sample: int, lag_ms: float) -> bool:
        """Say whether to write a draft of the sound up to ``end_sample``; see ``policy.draft_due``."""
        start, end = self._voice
        observation = Observation(sounding=start < end_sample and self._end < end, lag_ms=lag_ms)
        return draft_due(observation, self._ms(self.chunk_samples), self._ms(end_sample - self._end), self.cost_ms)

    def text(self, answerer: Answerer, level: ComputeLevel, heard: SoFar, *, grows: bool = True) -> Text | None:
        """Let a draft be written; return what is to be shown, None if that is what was. grows: see ``write``."""
        wanted = Wanted(self.max_steps(heard.end_sample), self._begun, self.kind == "committed", heard.own_s)
        partial = self.write(answerer.partial(level, heard.heard_s, wanted), heard.end_sample, grows=grows)
        if partial is None:
            return None
        return Text(
            partial.text, False, heard.start_s, heard.end_s, stable=partial.stable, answer=heard.answer,
            language=answerer.language, language_probability=answerer.language_probability, revises=partial.revises,
        )  # fmt: skip

    def max_steps(self, end_sample: int) -> int:
        """Return how many tokens a draft up to ``end_sample`` may add: as many as anybody says in that time."""
        return math.ceil(TOKENS_PER_S * (end_sample - self._end) / self.rate)

    def write(self, draft: Draft, end_sample: int, *, grows: bool = True) -> Partial | None:
        """Take a draft; return what is to be shown, None if that is what was.

        grows: whether more may stand than did: where the sound may still go to two answers, nothing does.
        """
        before, former = (self.shown, self.stable), self._draft
        self._draft, self._end = draft, end_sample
        stood = self._begun.tokens
        if draft.tokens[: len(stood)] != stood:  # in another language
            self._begun, self.stable, stood = NOT_BEGUN, "", ()
        kept = loop_start(draft.tokens, self.max_repeats)
        tokens = draft.tokens if kept is None else draft.tokens[: max(kept, len(stood))]
        self.shown = self._text(tokens[draft.hidden :])
        silent = kept is None and end_sample - self._voice[1] >= SILENT_S * self.rate
        if grows and (count := self._standing(tokens, former, silent=silent)) > len(stood):
            self._begun = Begun(tokens[:count], draft.hidden)
            self.stable = self._text(tokens[draft.hidden : count])
        if (self.shown, self.stable) == before:
            return None
        return Partial(self.shown, len(self.stable), before[1][agreed(before[1], self.stable) :])

    def _standing(self, tokens: Sequence[int], former: Draft, *, silent: bool) -> int:
        """Return how many first tokens stand: whole words, and no less than did. silent: nobody speaks at the end."""
        draft, count = self._draft, len(self._begun.tokens)
        ended = silent and draft.end >= SURE
        decode = self.tokenizer.decode
        whole = decode(tokens[draft.hidden :])
        for at in range(count, len(tokens)):
            if not self._certain(at, former):
                break
            text = decode(tokens[draft.hidden : at + 1])
            if at < draft.hidden or not text.strip() or not whole.startswith(text) or UNFINISHED in text:
                continue
            rest = whole[len(text) :]
            if begins_word(text, rest) and (ended or any(map(str.isalnum, rest))):
                count = at + 1
        return count

    def _certain(self, at: int, former: Draft) -> bool:
        draft = self._draft
        margin = draft.margins[at]
        if margin >= SURE:
            return True
        if former.tokens[: at + 1] != draft.tokens[: at + 1]:
            return False
        return margin - CHANGES * abs(margin - former.margins[at]) >= STEADY

    def _text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens).rstrip(UNFINISHED).strip()

    def _ms(self, samples: int) -> float:
        return samples * 1000 / self.rate
