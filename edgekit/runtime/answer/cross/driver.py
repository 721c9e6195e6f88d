"""CrossAnswerer: a backbone that attends to the utterance through a cross-KV beside its tokens, as Whisper does.

The KV caches of encoder and backbone are in-place state of their Calls; what is gathered here is the cross-KV.
"""

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import ComputeLevel, Timestamps
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.answer.answerer import CutReason, Outcome, Own, Setting, Span, TimedPart, TimedWord, untimed
from edgekit.runtime.answer.cross.cache import CrossCache
from edgekit.runtime.answer.cross.languages import LanguageBelief
from edgekit.runtime.answer.early.drafts import NO_DRAFT, NOT_BEGUN, Begun, Draft, Margins, Spelling, Wanted, checked
from edgekit.runtime.answer.lookup import Guess, loop
from edgekit.runtime.answer.prompt import DETECTED, cross_prompt
from edgekit.runtime.answer.sampler import Greedy, Sampler, Scored, likeliest, log_sum
from edgekit.runtime.answer.times.alignment import WordSpan, attention, queries_of, timed_words, words
from edgekit.runtime.answer.times.standing import (
    Standing,
    before_edge,
    before_loop,
    before_rest,
    middle,
    of_segments,
    of_words,
    shown,
)
from edgekit.runtime.answer.times.timestamps import BegunSampler, TextSpan, TimedSampler, seconds, spans
from edgekit.runtime.engine import Array
from edgekit.spans import ALIGN, DRAFT, PREFILL

# Nobody spoke: so probable is no speech, and the tokens' mean log-probability is no higher. Source: Whisper,
# transcribe.py, no_speech_threshold and logprob_threshold.
_SILENT, _UNSURE = 0.6, -1.0


@dataclass(frozen=True, slots=True)
class CrossMark:
    """Where a CrossAnswerer stood: positions heard, what is known of the last partial and the language, the draws."""

    positions: int
    prompt: tuple[int, ...]
    partial: tuple[int, ...]
    language: tuple[str | None, float | None, Array | None]
    belief: Array
    draws: object


class CrossAnswerer:
    """Sound goes into a CrossCache; the backbone reads it for the answer, and before that for partials.

    A partial guesses what the next one and the answer will be. The answer checks all of it against all of the sound,
    but for what it is bound to; a partial what does not stand of the former one.
    """

    converses = False

    def __init__(self, setting: Setting, language: str | None, task: str | None, times: str | None = None) -> None:
        """Raise UsageError for a language, a task or times that the bundle does not have."""
        protocol = setting.manifest.protocol
        self.prompt = cross_prompt(protocol, language, task)
        requested = language or protocol.language
        self.language = None if requested == DETECTED else requested
        self.language_probability: float | None = None
        self.outcome = Outcome()
        self.resumes, self.aligns = protocol.timestamps is not None, bool(protocol.alignment)
        self._languages = {token: name for name, token in protocol.languages.items()}
        self._belief = LanguageBelief(len(self.prompt.languages))
        self._weighed: Array | None = None  # with the sound of the latest answer or partial
        self._silent = 0.0  # probability that nobody speaks in it
        self._times = times
        if (times == "segments" and protocol.timestamps is None) or (times == "words" and not protocol.alignment):
            raise UsageError(
                f"times: '{times}', this bundle writes none of these; export the checkpoint again, or leave it out"
            )
        self._setting = setting
        self._backbone = setting.backbone()
        (cross,) = (spec for spec in setting.manifest.components["adapter"].outputs if spec.name == "cross")
        rows, heads, _, head_dim = cross.shape
        if not (isinstance(rows, int) and isinstance(heads, int) and isinstance(head_dim, int)):
            raise BundleFormatError(
                f"adapter: output 'cross' is {cross.shape}, only its third size may be free; export it again"
            )
        self._cache = CrossCache(rows // 2, heads, head_dim, setting.manifest.grid.max_positions, cross.dtype)
        grid = setting.manifest.grid
        # an utterance ends within a chunk: the rest of it and the silence after it, filled to whole chunks
        ending_frames = -(-(grid.tail_frames + 1) // grid.pad_to_frames) * grid.pad_to_frames
        self._ending_positions = ending_frames // grid.frames_per_position
        # Of partials: they come as time allows, and must not change what is drawn.
        self._likeliest = Greedy(protocol, likeliest(protocol.sampling))
        self._prompt: list[int] = []  # of the last partial, as far as it was read with it
        self._partial: tuple[int, ...] = ()
        self._word = Spelling(setting.tokenizer.decode)
        needed = len(self.prompt.start) + bool(self.prompt.languages) + len(self.prompt.rest)
        if needed > setting.context_tokens:
            raise UsageError(
                f"context_tokens: {setting.context_tokens}, the start of an answer alone takes {needed}; "
                "load the bundle with more"
            )

    def open(self, level: ComputeLevel) -> int:  # noqa: ARG002 - the other answerer needs it
        """Begin an utterance; nothing is computed and nothing was remembered."""
        self._cache.reset()
        self._prompt, self._partial = [], ()
        return 0

    def hear(self, heard: Array, level: ComputeLevel) -> None:  # noqa: ARG002 - the other answerer needs it
        """Take ``cross`` (2 * layers, heads, n, head_dim); the Grid ends an utterance before there is no room."""
        self._cache.append(heard)

    def prepare(self) -> None:
        """Lay the cross-KV out for the chunks that an ending utterance still brings."""
        self._cache.make_room(self._ending_positions)

    def partial(self, level: ComputeLevel, heard_s: float, wanted: Wanted) -> Draft:
        """Return a Draft; see Answerer. What nobody seems to have said, in sound that may be any, is none."""
        begun, protocol = wanted.begun, self._setting.manifest.protocol
        with self._setting.trace.span(DRAFT):
            former = self._prompt
            self._prompt = self._begin(level, untimed, heard_s, keeps=bool(begun.tokens) and wanted.keeps)
            begun = begun if self._prompt == former else NOT_BEGUN
            guess = Guess(self._guessed(begun), len(begun.tokens), wanted.max_steps, timed=False)
            scored = Scored(self._likeliest, protocol)
            margins = Margins(scored, protocol, protocol.sampling, self._word)
            rows = self._setting.table.rows(self._prompt)
            answer = self._setting.tokens(self._backbone, rows, level, heard_s, guess=guess, sampler=margins)
            self._partial = tuple(answer)
            if self._silent > _SILENT and not begun.tokens and scored.mean < _UNSURE:
                return NO_DRAFT
            hidden = begun.hidden if begun.tokens else self._words_before(wanted.own_s, level, heard_s)
            return margins.draft(self._partial, hidden)

    def _guessed(self, begun: Begun) -> tuple[int, ...]:
        """Return what an answer with that beginning will probably be."""
        return (*begun.tokens, *self._partial[len(begun.tokens) :])

    def _words_before(self, own_s: float, level: ComputeLevel, heard_s: float) -> int:
        """Return how many first tokens of the partial are words that were said before a second of the sound."""
        if not own_s or not self.aligns or not self._partial:
            return 0
        timed = self._words(self._partial, level, heard_s, whole=False)
        return next((word.start for word in timed if middle(word) >= own_s), len(self._partial))

    def next_piece(self) -> bool:
        """Return False: one piece of sound is one answer."""
        return False

    def turn(self, role: str, text: str) -> Sequence[int]:  # noqa: ARG002 - as Answerer has it
        """Raise UsageError: such a model hears sound only."""
        raise UsageError("text: this bundle writes down speech and answers no questions; use one that converses")

    def tell(self, turn: Sequence[int], level: ComputeLevel) -> int:  # noqa: ARG002 - as Answerer has it
        """Fail: there is no ``turn`` to tell."""
        raise AssertionError("turn() refuses every text")

    def shorten(self, tokens: int) -> None:  # noqa: ARG002 - as Answerer has it
        """Raise UsageError: what was said is written down whole."""
        raise UsageError("interrupt: this bundle writes down speech, and no word of it is dropped; leave it out")

    def mark(self) -> "CrossMark":
        """Return where the utterance stands; see Answerer."""
        return CrossMark(
            self._cache.positions, tuple(self._prompt), self._partial,
            (self.language, self.language_probability, self._weighed), self._belief.mark(),
            self._setting.sampler.mark(),
        )  # fmt: skip

    def back(self, mark: "CrossMark") -> None:
        """Go back to a mark; see Answerer."""
        self._cache.back(mark.positions)
        self._prompt, self._partial = list(mark.prompt), mark.partial
        self.language, self.language_probability, self._weighed = mark.language
        self._belief.back(mark.belief)
        self._setting.sampler.back(mark.draws)

    def think(self, level: ComputeLevel) -> Generator[int, None, None]:  # noqa: ARG002 - as Answerer has it
        """Yield nothing: such a model has no thoughts."""
        yield from ()

    def answer(
        self,
        level: ComputeLevel,
        heard_s: float | None,
        *,
        full: bool = False,
        own: Own | None = None,
        silence: bool = False,
        resumed: bool = False,
        begun: Begun = NOT_BEGUN,
    ) -> Generator[int, None, None]:
        """Yield the tokens of text; see Answerer. Without a given language the likeliest one is chosen first.

        What begins or ends in the midst of speech is written down with times, as such sound was in training; they say
        where the last whole segment ends.
        """
        assert heard_s is not None, "such a model hears sound only"
        self.outcome = Outcome()
        if (
            silence and self._setting.any_sound and not begun.tokens
        ):  # a gate that lets it through knows nothing of speech
            self.outcome = Outcome(kept=(0, 0), speech=False)
            return
        self._prompt = self._begin(level, self._setting.trace.span, heard_s, keeps=bool(begun.tokens))
        protocol, prompt = self._setting.manifest.protocol, self._prompt
        times = protocol.timestamps if full or resumed or self._times == "segments" else None
        scored = Scored(self._setting.sampler, protocol) if self._silent > _SILENT and not begun.tokens else None
        sampler = scored or self._setting.sampler
        if times is not None:
            prompt = prompt[: len(prompt) - len(protocol.start_tail)]
            sampler = TimedSampler(sampler, times, protocol.stop, (*protocol.start_tail, *protocol.suppress))
            sampler = BegunSampler(sampler, times, protocol.stop, begun.tokens) if begun.tokens else sampler
        rows, start = self._setting.table.rows(prompt), self._backbone.position

        def tokens_with(guess: Guess, sampler: Sampler) -> Generator[int, None, CutReason | None]:
            self._backbone.seek(start)
            return self._setting.tokens(self._backbone, rows, level, heard_s, guess=guess, sampler=sampler)

        if begun.tokens:
            tokens = tokens_with(Guess(self._guessed(begun), 0 if times else len(begun.tokens)), sampler)
        elif times is None and scored is None:
            tokens = checked(self._partial, sampler, protocol, tokens_with)
        else:  # what is chosen depends on more than which token is ahead
            tokens = tokens_with(Guess(), sampler)
        written = _Written(tokens, times, protocol.max_repeats, begun)
        yield from written
        if scored is not None and (not written.text or scored.mean < _UNSURE):
            self.outcome = Outcome(kept=(0, 0), speech=False)  # nothing is missing either
        elif not written.text:
            self.outcome = Outcome(written.cut)
        else:
            if self._weighed is not None:
                self._belief.note(self._weighed)
            self.outcome = self._outcome(written, level, heard_s, full=full, own=own, resumed=resumed, begun=begun)

    def _outcome(
        self,
        written: "_Written",
        level: ComputeLevel,
        heard_s: float,
        *,
        full: bool,
        own: Own | None,
        resumed: bool,
        begun: Begun,
    ) -> Outcome:
        """Return what of an answer stands, and when it was said."""
        text, times = written.text, written.times
        segments = [TextSpan(0, len(text), 0.0, heard_s)] if times is None else spans(written.said, times, heard_s)
        phrase = loop(text, self._setting.manifest.protocol.max_repeats)
        stands: Standing | None = None
        if times is not None and phrase is None and full:
            stands = of_segments(segments, heard_s)
        elif times is not None and phrase is None and resumed and not self._setting.any_sound:
            stands = before_rest(segments, heard_s)
        timed: list[WordSpan] = []
        if self._times == "words" or (self.aligns and (own or full or phrase is not None) and stands is None):
            timed = self._words(text, level, heard_s, whole=written.cut is None)
        limited = written.cut is not None and phrase is None  # nobody knows where in the sound the next word would be
        if phrase is not None:
            stands = before_loop(timed, phrase, own, heard_s)
        elif stands is None and full and times is not None and not limited:
            stands = before_edge(timed, len(text), heard_s)
        elif stands is None and own is not None:
            stands = of_words(timed, len(text), heard_s, own, full=full and not limited)
        stands = stands or Standing(0, len(text))
        if begun.tokens:
            if stands.resume_s is not None and stands.stop < len(begun.tokens) and not timed and self.aligns:
                timed = self._words(text, level, heard_s, whole=written.cut is None)
            stands = shown(stands, begun.hidden, len(begun.tokens), timed, heard_s)
        parts: tuple[TimedPart, ...] = ()
        if times is not None or self._times is not None:
            parts = tuple(self._parts(segments, timed, stands))
        cut = written.cut if stands.resume_s is None or stands.skips else None
        kept = stands.start - begun.hidden, stands.stop - begun.hidden
        return Outcome(cut, kept, stands.resume_s, parts, skips=stands.skips)

    def _parts(self, segments: Sequence[TextSpan], timed: Sequence[WordSpan], stands: Standing) -> Iterator[TimedPart]:
        """Yield the segments of the tokens that stand, with their words where these are asked for."""
        for one in segments:
            first, last = max(stands.start, one.start), min(stands.stop, one.stop)
            if first >= last:
                continue
            own = [word for word in timed if first <= word.start < last]
            start_s, end_s = one.start_s, one.end_s
            # without the model's own times the bounds are those of the sound, silence at its ends included
            if own and (len(segments) == 1 or self._times == "words"):
                start_s, end_s = own[0].start_s, own[-1].end_s
            kept = own if self._times == "words" else []
            words = tuple(TimedWord(word.text, word.start_s, word.end_s) for word in kept)
            yield TimedPart(first - stands.start, last - stands.start, start_s, end_s, words)

    def _words(self, text: Sequence[int], level: ComputeLevel, heard_s: float, *, whole: bool) -> list[WordSpan]:
        """Return when each word of a text was said; ``whole``: the model ended it."""
        grid, front_end = self._setting.manifest.grid, self._setting.manifest.front_end
        protocol = self._setting.manifest.protocol
        chosen = [token for token, name in self._languages.items() if name == self.language and self.prompt.languages]
        before = [*self.prompt.start, *chosen, *self.prompt.rest]
        fed = [*before, *text, protocol.stop[0]][: self._setting.context_tokens]
        position_s = grid.frames_per_position * front_end.hop_samples / front_end.sample_rate_hz
        positions = min(self._cache.positions, max(1, math.ceil(heard_s / position_s)))
        cross = self._cache.packed()
        with self._setting.trace.span(ALIGN, len(fed)):
            self._backbone.reset(cross)
            written = self._backbone.queries(self._setting.table.rows(fed), level)
            queries = queries_of(written, protocol.alignment, cross[0].shape[1], cross[0].shape[3])
            keys = [cross[2 * layer][0, head] for layer, head in protocol.alignment]
            picture = attention(queries, keys, positions)[len(before) - 1 :][: len(text) + 1]
            picture = np.pad(picture, ((0, len(text) + 1 - len(picture)), (0, 0)), mode="edge")
            pieces = words(text, self._setting.tokenizer.decode, self.language)
            return timed_words(picture, pieces, position_s, whole=whole)

    def _begin(self, level: ComputeLevel, span: Span, heard_s: float, *, keeps: bool) -> list[int]:
        """Attend to all that was heard and return the prompt that is still to be read; ``keeps``: the last one."""
        self._backbone.reset(self._cache.packed())
        if keeps:
            if self.prompt.languages:  # the last one goes on from there
                self._backbone.append(self._setting.table.rows(self.prompt.start), level)
            return self._prompt
        prompt, no_speech = self.prompt, self._setting.manifest.protocol.no_speech
        doubts = self._setting.any_sound and no_speech is not None
        if not prompt.languages and not doubts:
            return [*prompt.start, *prompt.rest]
        with span(PREFILL, len(prompt.start)):
            (logits,) = self._backbone.logits(self._setting.table.rows(prompt.start), level)
        if doubts:
            self._silent = float(np.exp(logits[no_speech] - log_sum(logits)))
        if not prompt.languages:
            self._backbone.seek(0)
            return [*prompt.start, *prompt.rest]
        self._weighed = self._belief.weighed(logits[list(prompt.languages)], heard_s)
        place = int(np.argmax(self._weighed))
        self.language, self.language_probability = self._languages[prompt.languages[place]], float(self._weighed[place])
        return [prompt.languages[place], *prompt.rest]


class _Written:
    """The tokens of an answer as they come: those of ``text`` are handed out, ``said`` has its times too.

    A loop is looked for in the text: the times between its repeats differ. What it has ``begun`` with is whole, even
    where it has no room left among times.
    """

    def __init__(
        self,
        tokens: Generator[int, None, CutReason | None],
        times: Timestamps | None,
        max_repeats: int | None,
        begun: Begun = NOT_BEGUN,
    ) -> None:
        self.times = times
        self.said: list[int] = []
        self.text: list[int] = []
        self.cut: CutReason | None = None
        self._tokens, self._max_repeats, self._begun = tokens, max_repeats, begun

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._all(), self._begun.hidden, None)

    def _all(self) -> Generator[int, None, None]:
        with closing(self._tokens) as tokens:
            while self.cut is None:
                try:
                    token = next(tokens)
                except StopIteration as end:
                    self.cut = end.value
                    break
                self.said.append(token)
                if self.times is None or seconds(token, self.times) is None:
                    self.text.append(token)
                    yield token
                    if self.times is not None and loop(self.text, self._max_repeats) is not None:
                        self.cut = "repeats"
        for token in self._begun.tokens[len(self.text) :]:
            self.text.append(token)
            yield token
