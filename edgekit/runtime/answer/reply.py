"""Reply: an answer as it comes into being: its tokens to thoughts and text, and to sound where it is spoken.

Knows tokens and texts; knows nothing of samples heard, levels or of when an answer is due.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

from edgekit.bundle import ComputeLevel, TokenProtocol
from edgekit.runtime.answer.answerer import Answerer, CutReason, Own, TimedPart, TimedWord
from edgekit.runtime.answer.early.partials import Known
from edgekit.runtime.answer.lookup import agreed, loop_start
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.answer.text import Detokenizer, Tokenizer
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Audio, AudioCut, AudioEnded, Interrupted, Segment, Text, TextCut, Thought, Word
from edgekit.spans import SPEAK
from edgekit.timing import Trace

_ALL = -1.0  # seconds of an answer's sound: as much as there is


@dataclass(frozen=True, slots=True)
class About:
    """What an answer is to: its number, the bounds of what was heard and its seconds of sound, None for a text.

    ``known``: the partial that the caller knows. ``full``, ``own``, ``silence``, ``resumed``: see Answerer.answer.
    ``part``: the KV cache holds no more of the sound. ``at``: the stream time of a second of it.
    """

    answer: int
    start_s: float
    end_s: float
    heard_s: float | None
    known: Known
    at: Callable[[float], float]
    full: bool = False
    own: Own | None = None
    silence: bool = False
    resumed: bool = False
    part: bool = False

    @property
    def overlaps(self) -> bool:
        """Whether the answer may begin with words of the one before, which will go."""
        return self.own is not None and self.own[0] > 0 and not self.known.begun.tokens


@dataclass(slots=True)
class _Said:
    """What there is of the latest answer. ``sounded_s``: seconds of its sound handed out."""

    about: About
    tokens: list[int] = field(default_factory=list)
    sounded_s: float = 0.0
    over: bool = False  # interrupted


class Interruptions:
    """Answers that are to end, and how many seconds of each were heard. Put in from any thread, taken by who works."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, float]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, answer: int, heard_s: float | None) -> None:
        """Let an answer end; heard_s: None for all that was said."""
        self._waiting.append((answer, _ALL if heard_s is None else heard_s))

    def next(self) -> tuple[int, float]:
        """Take the next one out."""
        return self._waiting.popleft()

    def take(self, answer: int) -> float | None:
        """Return the seconds that were heard of an answer that is to end, None if it is not; others are forgotten."""
        while self._waiting:
            named, heard_s = self._waiting.popleft()
            if named == answer:
                return heard_s
        return None

    def clear(self) -> None:
        """Forget all of them."""
        self._waiting.clear()


class Reply:
    """One stream's answers, one after another. ``hushed``: the rest of an answer is written and not spoken.

    ``interruption`` is asked after each bounded piece of work: the seconds of the answer's sound that were heard, if it
    is to end, else None; a negative number stands for all that was said.
    """

    Event = Thought | Text | TextCut | Audio | AudioCut | AudioEnded | Interrupted

    def __init__(
        self,
        answerer: Answerer,
        tokenizer: Tokenizer,
        protocol: TokenProtocol,
        speaker: Speaker | None,
        trace: Trace,
        *,
        interruption: Callable[[int], float | None],
    ) -> None:
        self.hushed = False
        self._answerer, self._tokenizer, self._protocol = answerer, tokenizer, protocol
        self._speaker, self._trace, self._interruption = speaker, trace, interruption
        self._said: _Said | None = None
        self._quiet = False  # this answer was hushed
        self._stable = ""  # of this answer, what the caller was shown as such

    def events(self, level: ComputeLevel, about: About) -> Generator["Reply.Event | None", None, None]:
        """Decode; yield a Thought or Text for every token that changes what is shown, then the whole text as final.

        Audio comes between and after them, as soon as there is some. None ends each bounded piece of work. A loop's
        repeats are left out of the final text. An answer that is interrupted ends with Interrupted instead.
        """
        self._said, self._quiet, self._stable = _Said(about), False, about.known.stable or ""
        try:
            yield from self._think(level, about)
            yield from self._answer(level, about)
        except _InterruptedError as interruption:
            yield self._ended(interruption.heard_s)

    def shorten(self, heard_s: float) -> Interrupted | None:
        """Shorten the latest answer, which is whole, to what was heard of it; None where that cannot be any more."""
        return None if self._said is None or self._said.over else self._ended(heard_s)

    def forget(self) -> None:
        """Take note that another turn has begun: no answer can be shortened until there is the next."""
        self._said = None

    def mark(self) -> "_Said | None":
        """Return the latest answer; see ``back``."""
        return copy(self._said)

    def back(self, mark: "_Said | None") -> None:
        """Forget answers since the mark, and that one was interrupted."""
        self._said = copy(mark)

    def without_loop(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens up to where they began to repeat themselves."""
        return tokens[: loop_start(tokens, self._protocol.max_repeats)]

    def _answer(self, level: ComputeLevel, about: About) -> Iterator["Reply.Event | None"]:
        assert self._said is not None, "events() begins it"
        shown, detokenizer = about.known.shown, Detokenizer(self._tokenizer)
        text, tokens = "", list[int]()
        options = {"full": about.full, "silence": about.silence, "resumed": about.resumed}
        with closing(
            self._answerer.answer(level, about.heard_s, own=about.own, begun=about.known.begun, **options)
        ) as answer:
            for token in answer:
                self._said.tokens.append(token)
                if self._speaker is None or not self._speaker.takes(token):
                    tokens.append(token)
                    if piece := detokenizer.push(token):
                        text += piece
                        if not shown.startswith(text.strip()):
                            shown = text.lstrip()
                            if about.known.stable is None or not about.overlaps:
                                yield self._text(shown, about)
                if self._speaker is not None and not self._silent():
                    yield from self._sound(self._speaker.say(token))
                yield from self._pause()
        yield from self._whole(text + detokenizer.finish(), tokens, about)
        yield from self._pause()  # nobody waits for what comes after it
        if self._speaker is not None and not self._silent():
            yield from self._sound(self._speaker.finish())
            if self._speaker.cut is not None:
                yield AudioCut(self._speaker.cut, about.end_s, about.answer)
            if self._said.sounded_s and not self._silent():
                yield AudioEnded(about.end_s, about.answer)

    def _text(self, text: str, about: About) -> Text:
        """Return the answer's text so far, and how much of it stands.

        It may begin with words of the one before, which will go. Its end may go where the answer does not stand whole.
        """
        stable, revises = 0 if about.overlaps else len(text), ""
        if about.known.stable is not None:
            same = agreed(self._stable, text)
            stable, revises = same if about.known.binds or about.overlaps else stable, self._stable[same:]
            self._stable = text[:stable]
        return Text(
            text, False, about.start_s, about.end_s, stable=stable, answer=about.answer,
            language=self._answerer.language, language_probability=self._answerer.language_probability,
            revises=revises,
        )  # fmt: skip

    def _whole(self, text: str, tokens: Sequence[int], about: About) -> Iterator[Text | TextCut]:
        """Yield the answer's text, whole, and what it lacks."""
        outcome, language = self._answerer.outcome, self._answerer.language
        kept = self.without_loop(tokens if outcome.kept is None else tokens[slice(*outcome.kept)])
        if len(kept) < len(tokens):
            text = self._tokenizer.decode(kept)
        text = text.strip()
        if about.known.stable is not None and not text.startswith(
            self._stable
        ):  # before the final text, which is as without
            yield self._text(text, about)
        end_s = about.end_s if outcome.resume_s is None else about.at(outcome.resume_s)
        segments = tuple(self._segment(part, kept, about, end_s) for part in outcome.parts if part.start < len(kept))
        reasons: list[Literal[CutReason, "empty", "sound"]] = [] if outcome.cut is None else [outcome.cut]
        if not reasons and (outcome.skips or (about.full and not text and outcome.speech)):
            reasons.append("empty")
        if about.part:
            reasons.append("sound")
        yield Text(
            text, True, about.start_s, end_s, tuple(kept), len(text), about.answer, language,
            self._answerer.language_probability, segments, bool(reasons),
        )  # fmt: skip
        for reason in reasons:
            yield TextCut(reason, end_s, about.answer)

    def _segment(self, part: TimedPart, tokens: Sequence[int], about: About, end_s: float) -> Segment:
        """Return a part with stream times, none beyond those of the whole text: what comes there is another text's."""

        def bounds(timed: TimedPart | TimedWord) -> tuple[float, float]:
            start_s, stop_s = (min(max(about.at(one), about.start_s), end_s) for one in (timed.start_s, timed.end_s))
            return start_s, max(start_s, stop_s)

        own = tokens[part.start : part.stop]
        words = tuple(Word(word.text.strip(), *bounds(word)) for word in part.words)
        text, language = self._tokenizer.decode(own).strip(), self._answerer.language
        return Segment(*bounds(part), text, tuple(own), language, words, self._answerer.language_probability)

    def _think(self, level: ComputeLevel, about: About) -> Iterator[Thought | None]:
        detokenizer, bounds = Detokenizer(self._tokenizer), (about.start_s, about.end_s)
        close = self._protocol.thinking.close if self._protocol.thinking else ""
        text, thought = "", False
        with closing(self._answerer.think(level)) as tokens:
            for token in tokens:
                thought = True
                if piece := detokenizer.push(token):
                    text += piece
                    yield Thought(_before(text, close), False, *bounds, about.answer)
                try:
                    yield from self._pause()
                except _InterruptedError:
                    tokens.close()
                    with closing(self._answerer.answer(level, about.heard_s)) as answer:
                        begun = next(answer, None) is not None
                    if begun:  # what was heard is remembered with the beginning of an answer only
                        self._answerer.shorten(0)
                    raise
        if thought:
            yield Thought(_before(text + detokenizer.finish(), close), True, *bounds, about.answer)

    def _pause(self) -> Iterator[None]:
        """End a bounded piece of work, and the answer where it is to end."""
        yield None
        assert self._said is not None, "there is an answer"
        heard_s = self._interruption(self._said.about.answer)
        if heard_s is not None:
            raise _InterruptedError(heard_s)

    def _silent(self) -> bool:
        self._quiet = self._quiet or self.hushed
        return self._quiet

    def _sound(self, pieces: Iterator[Array | None]) -> Iterator[Audio | None]:
        assert self._speaker is not None, "only a Speaker sounds"
        assert self._said is not None, "there is an answer"
        rate = self._speaker.sample_rate_hz
        while not self._silent():
            with self._trace.span(SPEAK):
                samples = next(pieces, self)
            if samples is self:
                return
            if samples is not None:
                assert not isinstance(samples, Reply), "compared above"
                self._said.sounded_s += len(samples) / rate
                yield Audio(samples.copy(), rate, self._said.about.answer)
            yield from self._pause()

    def _ended(self, heard_s: float) -> Interrupted:
        """Cut the answer at what was heard of it, in the conversation too, and say what is kept."""
        assert self._said is not None, "there is an answer"
        said, self._said.over = self._said, True
        kept, exact = len(said.tokens), True
        if heard_s >= 0 and self._speaker is not None:
            heard_s = min(heard_s, said.sounded_s)
            known = self._speaker.heard_tokens(heard_s) if heard_s else 0  # it may have said nothing of this answer
            exact = known is not None
            kept = min(kept, round(heard_s / said.sounded_s * kept) if known is None else known)
        if said.tokens:
            self._answerer.shorten(kept)
        speaker = self._speaker
        tokens = tuple(token for token in said.tokens[:kept] if speaker is None or not speaker.takes(token))
        text = self._tokenizer.decode(self.without_loop(tokens)).strip()
        return Interrupted(text, tokens, exact, said.about.end_s, said.about.answer)


class _InterruptedError(Exception):
    def __init__(self, heard_s: float) -> None:
        super().__init__()
        self.heard_s = heard_s


def _before(text: str, close: str) -> str:
    """Return a thought without the text that closes it."""
    return text.partition(close)[0].strip() if close else text.strip()
