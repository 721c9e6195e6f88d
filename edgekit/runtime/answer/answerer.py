"""The backbone's side of a stream: what it is told while the user talks, and its answer, token by token.

Two ways to attend to sound, by the bundle's protocol: CrossAnswerer (``cross/``) and PrefixAnswerer (``prefix.py``);
here is what both need. Knows nothing of samples, utterance bounds or text output.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from edgekit.bundle import ComputeLevel, Manifest
from edgekit.runtime.answer.early.drafts import NOT_BEGUN, Begun, Draft, Wanted
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.lookup import Guess, Lookup, loop_start
from edgekit.runtime.answer.prompt import CrossPrompt, PrefixPrompt
from edgekit.runtime.answer.sampler import Sampler
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.answer.text import Tokenizer
from edgekit.runtime.engine import Array, Engine
from edgekit.spans import DECODE, PREFILL
from edgekit.timing import Trace

_SPARE_TOKENS = 8  # an answer to a very short sound may still be a word

_NO_GUESS = Guess()
CutReason = Literal["max_tokens", "max_length", "context", "rate", "repeats"]  # see TextCut
Own = tuple[float, float]
Span = Callable[[str, int], AbstractContextManager[None]]


def untimed(_name: str, _count: int = 1) -> AbstractContextManager[None]:
    """Return a span that measures nothing, for runs that are a part of a longer span."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word of an answer, and when it was said, in seconds of its sound."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class TimedPart:
    """Tokens ``start`` to ``stop`` of those that stand, when they were said, in seconds of the sound, their words."""

    start: int
    stop: int
    start_s: float
    end_s: float
    words: tuple[TimedWord, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an answer that is whole.

    ``kept``: bounds of its tokens that stand, None for all. ``resume_s``: second of its sound where the next answer is
    to begin, None: at its end. ``parts``: of the tokens that stand, where their times are known. ``speech``: whether
    anybody spoke. ``skips``: nothing stands of the last seconds before ``resume_s``.
    """

    cut: CutReason | None = None
    kept: tuple[int, int] | None = None
    resume_s: float | None = None
    parts: tuple[TimedPart, ...] = ()
    speech: bool = True
    skips: bool = False


class Answerer(Protocol):
    """What drives the backbone: one stream's conversation with it.

    ``converses``: it takes turns in text, and an answer may be interrupted; else it writes down every word, and
    partials of that. ``language``: of its latest answer or partial, as it was given or detected, with its probability
    if detected; None where it has no choice of one. ``outcome``: of its latest answer that is whole. ``resumes``:
    whether it tells where to go on after an answer to a piece of sound that was full; ``aligns``: whether it knows when
    each word was said.
    """

    converses: bool
    resumes: bool
    aligns: bool
    language: str | None
    language_probability: float | None
    outcome: Outcome

    @property
    def prompt(self) -> CrossPrompt | PrefixPrompt:
        """The tokens that it feeds around sound."""
        ...

    def open(self, level: ComputeLevel) -> int:
        """Begin a turn; return how many earlier ones had to be forgotten for it though they were to be remembered."""
        ...

    def hear(self, heard: Array, level: ComputeLevel) -> Array | None:
        """Take one adapter output; return what found no room, to be heard again after the next ``open``, or None."""
        ...

    def prepare(self) -> None:
        """Do what can be done before the sound ends; called after each chunk heard while it still goes on."""
        ...

    def partial(self, level: ComputeLevel, heard_s: float, wanted: Wanted) -> Draft:
        """Return the answer to the ``heard_s`` seconds heard so far, or its beginning; an empty one if there is none.

        It begins as is ``wanted``, unless its language is another by now. Tokens of the former partial come cheaper. It
        is for showing, and makes ``answer`` quicker, which does not depend on it otherwise.
        """
        ...

    def next_piece(self) -> bool:
        """Say whether the same utterance goes on when the encoder starts its next piece."""
        ...

    def turn(self, role: str, text: str) -> Sequence[int]:
        """Return the tokens of a turn in text, for ``tell``; changes nothing. Raises UsageError where none can be."""
        ...

    def tell(self, turn: Sequence[int], level: ComputeLevel) -> int:
        """Take a turn in text, its tokens from ``turn``; return how many earlier turns it cost."""
        ...

    def think(self, level: ComputeLevel) -> Generator[int, None, None]:
        """Yield the tokens of a thought that precedes the answer, the end of it included; none if there is none."""
        ...

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
        """Yield the tokens of the answer to a turn, without the one that ends it; heard_s: seconds of sound, if any.

        full: the piece of sound is, and speech goes on behind it. own: where words that are said count, in seconds of
        the sound; others stand in the answer before or behind. silence: the sound has none that could be speech.
        resumed: it begins in the midst of speech. begun: what the last partial was bound to, and so is the answer: it
        stands, whatever else does; hidden tokens are not yielded. Closed before its end, the turn keeps what was
        yielded; at its end ``outcome`` says what of it stands.
        """
        ...

    def shorten(self, tokens: int) -> None:
        """Keep only the first ``tokens`` of the last answer; before the next ``open``. Raises UsageError where none is
        remembered.
        """
        ...

    def mark(self) -> object:
        """Return where the turn stands: tokens, their length in the KV cache, draws, what the speaker was told."""
        ...

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the answerer's own
        """Go back to a mark of this turn; an answer since then is not remembered."""
        ...


class Backbone:
    """The backbone's Call with its position in the KV cache; arrays of one-token steps are rewritten, not replaced."""

    def __init__(self, engine: Engine, width: int, context_tokens: int) -> None:
        names = {spec.name for spec in engine.component.inputs}
        self._call = engine.bind({"context": context_tokens})
        self._context = context_tokens
        self._start = np.zeros(1, np.int64)
        self._one_row = np.zeros((1, width), np.float32)
        self._no_rows, self._first_row = np.zeros(0, np.int64), np.zeros(1, np.int64)
        self._inputs: dict[str, Array] = {"start": self._start}
        self._experts: Array | None = None
        if "experts_per_token" in names:
            self._experts = self._inputs["experts_per_token"] = np.zeros(1, np.int64)

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        return int(self._start[0])

    @property
    def room(self) -> int:
        """Tokens that still fit into the KV cache."""
        return self._context - self.position

    def reset(self, cross: Sequence[Array] = ()) -> None:
        """Forget every token; attend to ``cross``, the packed arrays of a CrossCache, from now on."""
        self.seek(0)
        for index, array in enumerate(cross):
            self._inputs[f"cross.{index}"] = array

    def seek(self, position: int) -> None:
        """Go on after the first ``position`` tokens, which the cache must hold; later ones are forgotten."""
        assert 0 <= position <= self._context, position
        self._start[0] = position

    def append(self, embeds: Array, level: ComputeLevel) -> Array | None:
        """Add embeddings (n, hidden) and ask for no logits, which costs no head.

        Return ``hidden`` (n, hidden), what a talker hears of them, where the backbone writes it.
        """
        return self._run(embeds, self._no_rows, level).get("hidden")

    def settled(self, prompt: Array, rows: Array, level: ComputeLevel, *, singly: bool) -> Array:
        """Return what is to be added in one run of a prompt and what follows it; ``singly``: the last row alone."""
        if not singly:
            return np.concatenate((prompt, rows))
        for part in (prompt, *rows[:-1, None]):
            self.append(part, level)
        return rows[-1:]

    def logits(self, embeds: Array, level: ComputeLevel, last: int = 1) -> Array:
        """Add embeddings (n, hidden) and return the logits (last, vocabulary) after each of the ``last`` ones."""
        return self.step(embeds, level, last)[0]

    def queries(self, embeds: Array, level: ComputeLevel) -> Array:
        """Add embeddings (n, hidden) and return what the layers of ``alignment`` ask sound for: (n, layers * width)."""
        return self._run(embeds, self._no_rows, level)["queries"]

    def step(self, embeds: Array, level: ComputeLevel, last: int = 1) -> tuple[Array, Array | None]:
        """Add embeddings (n, hidden); return ``logits`` and (last, hidden) what it writes as ``hidden``, if so."""
        if len(embeds) == 1:
            self._one_row[:] = embeds
            outputs = self._run(self._one_row, self._first_row, level)
        else:
            outputs = self._run(embeds, np.arange(len(embeds) - last, len(embeds)), level)
        hidden = outputs.get("hidden")
        return outputs["logits"], None if hidden is None else hidden[-last:]

    def _run(self, embeds: Array, rows: Array, level: ComputeLevel) -> dict[str, Array]:
        assert len(embeds) <= self.room, f"{len(embeds)} tokens, room for {self.room}"
        if self._experts is not None:
            self._experts[0] = level.experts_per_token
        self._inputs["embeds"], self._inputs["logit_rows"] = embeds, rows
        outputs = self._call.run(self._inputs)
        self._start += len(embeds)
        return outputs


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One token of an answer, and the row (width,) that is fed for it; None for the token table's own."""

    token: int
    row: Array | None = None


def tokens_of(
    steps: Generator[Step, None, CutReason | None], said: list[Step]
) -> Generator[int, None, CutReason | None]:
    """Yield the tokens of steps, which are appended to ``said``, and return what these return."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            cut: CutReason | None = end.value
            return cut
        said.append(step)
        yield step.token


def _fed(tokens: Sequence[int], hidden: Array | None, speaker: Speaker | None) -> Generator[Step, None, Array | None]:
    """Yield a Step of each token, and return the row of the last where the speaker leads."""
    row: Array | None = None
    for at, token in enumerate(tokens):
        row = None if speaker is None else speaker.next_row(token, None if hidden is None else hidden[at])
        yield Step(token, row)
    return row


@dataclass(frozen=True, slots=True)
class Setting:
    """What every answerer of a stream needs. ``any_sound``: what is heard may hold no speech at all."""

    manifest: Manifest
    engine: Engine
    table: TokenTable
    tokenizer: Tokenizer
    sampler: Sampler
    trace: Trace
    context_tokens: int
    max_tokens: int
    any_sound: bool = False

    def backbone(self) -> Backbone:
        """Return a Backbone with a KV cache of its own."""
        return Backbone(self.engine, self.table.width, self.context_tokens)

    def tokens(
        self,
        backbone: Backbone,
        prompt: Array,
        level: ComputeLevel,
        heard_s: float | None,
        *,
        guess: Guess = _NO_GUESS,
        at_most: int | None = None,
        sampler: Sampler | None = None,
    ) -> Generator[int, None, CutReason | None]:
        """Yield the tokens of ``steps`` where no speaker leads, and return what these return."""
        steps = self.steps(backbone, prompt, level, heard_s, guess=guess, at_most=at_most, sampler=sampler)
        return (yield from tokens_of(steps, []))

    def steps(
        self,
        backbone: Backbone,
        prompt: Array,
        level: ComputeLevel,
        heard_s: float | None,
        *,
        guess: Guess = _NO_GUESS,
        at_most: int | None = None,
        sampler: Sampler | None = None,
        speaker: Speaker | None = None,
    ) -> Generator[Step, None, CutReason | None]:
        """Prefill the prompt's rows (n, hidden) and yield Steps until one of the protocol's ends is met.

        Return why it is none that the model wrote, if so.

        heard_s: seconds of sound that limit how much is said about them, if they do; at_most: tokens in place of
        ``max_tokens``; sampler: one in place of the answers' own; speaker: is asked for the row that each token
        becomes, once and before the token is yielded.

        The guess decides what this costs, and what it yields by the last bits of logits alone; settled tokens come
        first. What is checked in one run goes through the same choice, token by token, and what the KV cache holds
        beyond the last is replaced. It is of the token table's rows, so none goes with a speaker.
        """
        assert speaker is None or not guess.tokens, "what a speaker feeds cannot be guessed"
        protocol, span = self.manifest.protocol, self.trace.span if guess.timed else untimed
        sampler = sampler or self.sampler
        limit, limited_by = self._limit(backbone, len(prompt), heard_s, at_most)
        cut: CutReason | None = None
        said = list(guess.tokens[: guess.settled])
        lookup = Lookup(guess.tokens, len(said))
        answer_start = backbone.position + len(prompt)

        def take(rows: Array, checked: Sequence[int]) -> int | None:
            """Choose the token after each row while those that were checked are right; return how many, None to end."""
            nonlocal cut
            for right, logits in enumerate(rows):
                token = sampler.pick(logits, said)
                if token in protocol.stop:
                    return None
                said.append(token)
                repeats = loop_start(said, protocol.max_repeats) is not None
                if repeats or len(said) >= limit:
                    cut = "repeats" if repeats else limited_by
                    return None
                if token not in checked[right : right + 1]:
                    return right
            raise AssertionError("after the row of the last checked token any token is new")

        row: Array | None = None  # of the last token, where the speaker leads
        first, steps, checked = True, 0, lookup.next(limit - len(said) - 1)
        prompt = backbone.settled(prompt, self.table.rows(said), level, singly=guess.singly)
        if len(said) >= limit:
            backbone.append(prompt[:-1], level)  # the last token is chosen, not read
            yield from map(Step, said)
            return limited_by
        while first or checked or steps != guess.max_steps:
            before, unread = 0 if first else len(said), prompt
            if not first:  # the last of them is chosen, not read
                backbone.seek(answer_start + before - 1)
                unread = self.table.rows(said[-1:]) if row is None else row[None]
            name = PREFILL if first or checked else DECODE
            with span(name, len(unread) + len(checked)):
                embeds = np.concatenate((unread, self.table.rows(checked))) if checked else unread
                logits, hidden = backbone.step(embeds, level, last=1 + len(checked))
                right = take(logits, checked)
            row = yield from _fed(said[before:], hidden, speaker)
            if right is None:
                return cut
            lookup.follow(said, right)
            first, steps, checked = False, steps + (name == DECODE), lookup.next(limit - len(said) - 1)
        return None

    def _limit(
        self, backbone: Backbone, prompt: int, heard_s: float | None, at_most: int | None
    ) -> tuple[int, CutReason]:
        """Return how many tokens an answer has at most after ``prompt`` rows that the KV cache lacks, and why."""
        protocol = self.manifest.protocol
        limits: list[tuple[int, CutReason]] = [
            (self.max_tokens if at_most is None else at_most, "max_tokens"),
            (backbone.room - prompt + 1, "context"),  # the last token is not read back
        ]
        if protocol.max_length is not None:
            limits.append((max(1, protocol.max_length - backbone.position - prompt), "max_length"))
        if protocol.max_tokens_per_s is not None and heard_s is not None:
            limits.append((int(protocol.max_tokens_per_s * heard_s) + _SPARE_TOKENS, "rate"))
        return min(limits, key=lambda limit: limit[0])
