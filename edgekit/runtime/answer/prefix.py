"""PrefixAnswerer: a backbone in whose token stream the embeddings of sound stand, between texts.

Keeps the turns of a conversation in one KV cache. Knows what was read and what was said, and what of it still fits.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import ComputeLevel, Thinking
from edgekit.errors import UsageError
from edgekit.runtime.answer.answerer import CutReason, Outcome, Own, Setting, Step, tokens_of
from edgekit.runtime.answer.early.drafts import NO_DRAFT, NOT_BEGUN, Begun, Draft, Margins, Spelling, Wanted, checked
from edgekit.runtime.answer.lookup import Guess
from edgekit.runtime.answer.prompt import Asking, check_text, filled, prefix_prompt
from edgekit.runtime.answer.sampler import Greedy, Sampler, likeliest
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.answer.text import Detokenizer
from edgekit.runtime.engine import Array
from edgekit.spans import DRAFT, PREFILL

_ROOM_FOR_SOUND = 4  # of the context, one part in: what older turns make way for


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows (n, hidden) as the backbone is fed them: of ``tokens``, or of sound (None); ``said`` by the model itself."""

    tokens: tuple[int, ...] | None
    rows: Array
    said: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PrefixMark:
    """Where a PrefixAnswerer stood; each field as of the same name there."""

    position: int
    held: int
    past: tuple[list[_Part], ...]
    turn: tuple[_Part, ...]
    unread: tuple[_Part, ...]
    pending: tuple[int, ...]
    turn_open: bool
    begun: tuple[int, ...] | None
    draws: object
    speaker: object
    partial: tuple[int, ...]


class PrefixAnswerer:
    """Sound goes into the backbone's own KV cache, between the protocol's texts, while the user still talks.

    It writes partials only where it is asked to write down what is said: a reply to half a question is no use.
    """

    converses = True
    resumes = aligns = False
    language: str | None = None
    language_probability: float | None = None

    def __init__(self, setting: Setting, asking: Asking, speaker: Speaker | None = None) -> None:
        """Raise UsageError for a name the bundle does not have, or if the texts around it leave no room for sound."""
        prompt = prefix_prompt(setting.manifest.protocol, setting.tokenizer, asking, speaks=speaker is not None)
        self.prompt = prompt
        self._setting, self._speaker, self._turns_kept = setting, speaker, asking.turns
        self._backbone = setting.backbone()
        fixed = len(prompt.opening) + len(prompt.before) + len(prompt.after) + len(prompt.lead)
        self._reserve = len(prompt.after) + len(prompt.lead) + min(setting.max_tokens, setting.context_tokens // 4)
        if setting.context_tokens - len(prompt.opening) - len(prompt.before) - self._reserve < 1:
            raise UsageError(
                f"context_tokens: {setting.context_tokens}, the prompt takes {fixed} and the answer "
                f"{self._reserve - len(prompt.after) - len(prompt.lead)}; shorten the prompt or load the bundle with "
                "more"
            )
        self._opened = False
        self._past: list[list[_Part]] = []  # turns in the first `_held` tokens of the KV cache, but for `_unread`
        self._held = 0
        self._turn: list[_Part] = []
        self._unread: list[_Part] = []
        self._turn_start = 0  # tokens in the KV cache before this turn
        self._pending: Sequence[int] = ()  # text that goes in with the next sound
        self._told = False
        self._turn_open = False  # begun, and neither answered nor undone
        self._begun: list[int] | None = None  # what the answer goes on from where a thought came first
        self.outcome = Outcome()
        self._likeliest = Greedy(setting.manifest.protocol, likeliest(setting.manifest.protocol.sampling))
        self._word = Spelling(setting.tokenizer.decode)
        self._partial: tuple[int, ...] = ()  # the last one of this turn

    def open(self, level: ComputeLevel) -> int:
        """Begin a turn; see Answerer. The conversation's opening is read once and kept."""
        forgotten = self._make_way(level)
        if self._past:
            self._read(self.prompt.again, level)
        self._turn, self._turn_start = [], self._backbone.position
        self._begun, self._told, self._turn_open, self._partial = None, False, True, ()
        self._pending = self.prompt.before
        return forgotten

    def hear(self, heard: Array, level: ComputeLevel) -> Array | None:
        """Prefill embeddings (n, hidden); see Answerer. A lone output larger than the KV cache is cut in two."""
        room = self._backbone.room - self._reserve - len(self._pending)
        if room < 1 or (self._heard_any() and len(heard) > room):
            return heard
        texts = [self._text(self._pending)] if self._pending else []
        self._append([*texts, _Part(None, heard[:room])], level)
        self._pending = ()
        return heard[room:] if len(heard) > room else None

    def turn(self, role: str, text: str) -> list[int]:
        """Return the tokens of a turn in text; see Answerer."""
        protocol = self._setting.manifest.protocol
        if role not in protocol.roles:
            known = f"choose one of: {', '.join(protocol.roles)}" if protocol.roles else "it takes sound only"
            raise UsageError(f"role: '{role}' is not in this bundle; {known}")
        check_text(self._setting.tokenizer, "text", text)
        turn = self._setting.tokenizer.encode(filled(protocol.turn, {"{role}": protocol.roles[role], "{text}": text}))
        alone = self._setting.context_tokens - len(self.prompt.opening) - self._reserve
        if len(turn) > alone:
            raise UsageError(
                f"text: takes {len(turn)} tokens, there is room for {alone}; shorten it or load the bundle with more "
                "context_tokens"
            )
        return turn

    def tell(self, turn: Sequence[int], level: ComputeLevel) -> int:
        """Add a turn in text; see Answerer. All earlier ones go where it finds no room beside them."""
        forgotten = 0
        if len(turn) > self._backbone.room - self._reserve:
            forgotten, self._past = len(self._past), []
            self._begin(level)
            self._turn, self._turn_start = [], self._backbone.position
        self._read(turn, level)
        self._pending, self._told = (), True
        return forgotten

    def prepare(self) -> None:
        """Do nothing: hearing is the prefill."""

    def partial(self, level: ComputeLevel, heard_s: float, wanted: Wanted) -> Draft:
        """Return a Draft; see Answerer. It leaves nothing in the KV cache: what is heard next is written over it."""
        before = self._backbone.position
        prompt = [*self.prompt.after, *self.prompt.lead]
        at_most = self._reserve - len(prompt)  # what there is always room for, so that more sound leaves room for it
        if not self._heard_any() or self._pending or self._backbone.room <= len(prompt):
            return NO_DRAFT
        with self._setting.trace.span(DRAFT):
            guess = Guess(self._guessed(wanted.begun), len(wanted.begun.tokens), wanted.max_steps, timed=False)
            protocol = self._setting.manifest.protocol
            margins = Margins(self._likeliest, protocol, protocol.sampling, self._word)
            answer = self._setting.tokens(
                self._backbone, self._setting.table.rows(prompt), level, heard_s, guess=guess, at_most=at_most,
                sampler=margins,
            )  # fmt: skip
            self._partial = tuple(answer)
            self._backbone.seek(before)
        return margins.draft(self._partial)

    def _guessed(self, begun: Begun) -> tuple[int, ...]:
        """Return what an answer with that beginning will probably be."""
        return (*begun.tokens, *self._partial[len(begun.tokens) :])

    def next_piece(self) -> bool:
        """Return True: the text ``between`` pieces goes in with the next piece's first embeddings."""
        self._pending = self.prompt.between
        return True

    def think(self, level: ComputeLevel) -> Generator[int, None, None]:
        """Yield the tokens of a thought; see Answerer. Its end is written by EdgeKit where the model finds none."""
        if self.prompt.thinking is None or not (self._told or self._heard_any()):
            return
        thinking, encode = self.prompt.thinking, self._setting.tokenizer.encode
        close = encode(thinking.close)
        prompt = self._ask() + encode(thinking.open)
        start = self._backbone.position + len(prompt)
        detokenizer, text, closed = Detokenizer(self._setting.tokenizer), "", False
        thought: list[int] = []
        rows = self._setting.table.rows(prompt)
        at_most = max(1, (self._backbone.room - len(prompt)) // 2)  # the other half is for the answer
        if self.prompt.thought_tokens is not None:
            at_most = min(at_most, self.prompt.thought_tokens)
        try:
            for token in self._setting.tokens(self._backbone, rows, level, None, at_most=at_most):
                thought.append(token)
                text += detokenizer.push(token)
                closed = thought[-len(close) :] == close or thinking.close in text
                yield token
                if closed:
                    break
        finally:  # who listens may have heard enough
            self._close_thought(thinking, thought, text, closed, start)

    def _close_thought(self, thinking: Thinking, thought: list[int], text: str, closed: bool, start: int) -> None:
        """Prepare what leads from a thought, begun at ``start`` in the KV cache, to the answer."""
        then = thinking.then if not text.partition(thinking.close)[2] else ""  # a token may hold the end and a newline
        speak = self._setting.manifest.protocol.speak if self._speaker else ""
        unread = thought[self._backbone.position - start :]
        self._begun = unread + self._setting.tokenizer.encode(("" if closed else thinking.close) + then + speak)

    def answer(
        self,
        level: ComputeLevel,
        heard_s: float | None,
        *,
        full: bool = False,  # noqa: ARG002 - as Answerer has it
        own: Own | None = None,  # noqa: ARG002 - as Answerer has it
        silence: bool = False,  # noqa: ARG002 - as Answerer has it
        resumed: bool = False,  # noqa: ARG002 - as Answerer has it
        begun: Begun = NOT_BEGUN,
    ) -> Generator[int, None, None]:
        """Yield tokens; see Answerer. A thought before them is not remembered, as the published templates have it."""
        self.outcome = Outcome()
        if not self._told and not self._heard_any():
            return
        thought = self._begun is not None
        prompt = self._begun if self._begun is not None else [*self._ask(), *self.prompt.lead]
        start = self._backbone.position + len(prompt)
        rows, said = self._setting.table.rows(prompt), list[Step]()
        before = self._backbone.position

        def steps_with(guess: Guess, sampler: Sampler) -> Generator[Step, None, CutReason | None]:
            self._backbone.seek(before)
            return self._setting.steps(
                self._backbone, rows, level, heard_s, guess=guess, sampler=sampler, speaker=self._speaker
            )

        if begun.tokens:
            steps = steps_with(Guess(self._guessed(begun), len(begun.tokens)), self._setting.sampler)
        else:  # what a later turn remembers is read as without partials
            guessed = () if self._turns_kept != 0 else self._partial
            steps = checked(guessed, self._setting.sampler, self._setting.manifest.protocol, steps_with)
        try:
            cut = yield from tokens_of(steps, said)
        except GeneratorExit:  # who listens has heard enough
            self._remember(said, start, thought=thought)
            raise
        self.outcome = Outcome(cut)
        self._remember(said, start, thought=thought)

    def shorten(self, tokens: int) -> None:
        """Keep only the first tokens of the last answer; see Answerer."""
        turn = self._past[-1]
        answer = [part for part in turn if part.said]
        heard = [part for part in turn if not part.said]
        lead, said = answer[: bool(self.prompt.lead)], answer[bool(self.prompt.lead) :]
        kept = [_Part(part.tokens[:tokens], part.rows[:tokens], said=True) for part in said if part.tokens][:1]
        kept = [part for part in kept if part.tokens]
        self._past[-1] = [*heard, *lead, *kept]
        before = self._turn_start + sum(len(part.rows) for part in heard)
        if self._held == before:  # nothing of the answer is in the KV cache
            self._unread = [*lead, *kept]
            return
        before += sum(len(part.rows) for part in lead)
        read = min(self._held - before, tokens)
        self._held = before + read
        self._unread = [_Part(part.tokens[read:], part.rows[read:], said=True) for part in kept if part.tokens]
        self._unread = [part for part in self._unread if part.tokens]

    def mark(self) -> "PrefixMark":
        """Return where the turn stands; see Answerer."""
        return PrefixMark(
            position=self._backbone.position, held=self._held, past=tuple(self._past), turn=tuple(self._turn),
            unread=tuple(self._unread), pending=tuple(self._pending), turn_open=self._turn_open,
            begun=None if self._begun is None else tuple(self._begun),
            draws=self._setting.sampler.mark(), speaker=self._speaker.mark() if self._speaker else None,
            partial=self._partial,
        )  # fmt: skip

    def back(self, mark: "PrefixMark") -> None:
        """Go back to a mark; see Answerer."""
        self._backbone.seek(mark.position)
        self._held, self._turn_open = mark.held, mark.turn_open
        self._past, self._turn, self._unread = list(mark.past), list(mark.turn), list(mark.unread)
        self._pending, self._begun = mark.pending, None if mark.begun is None else list(mark.begun)
        self._setting.sampler.back(mark.draws)
        self._partial = mark.partial
        if self._speaker:
            self._speaker.back(mark.speaker)

    def _heard_any(self) -> bool:
        """Return whether sound is in this turn: of a hundredth of a second nothing reaches the backbone."""
        return any(part.tokens is None for part in self._turn)

    def _ask(self) -> list[int]:
        """Return what leads to a reply, and take note of it as a part of this turn."""
        asked = self._text(self.prompt.reply if self._told else self.prompt.after)
        assert asked.tokens is not None, "a text has tokens"
        self._turn.append(asked)
        if self._speaker:
            self._speaker.read(asked.tokens, asked.rows, None)
        return list(asked.tokens)

    def _remember(self, said: Sequence[Step], start: int, *, thought: bool) -> None:
        """Close the turn: what the KV cache lacks of it is read at the beginning of the next."""
        lead = self._said([Step(token) for token in self.prompt.lead])
        answer = [part for part in (lead, self._said(said)) if part.tokens]
        read = self._backbone.position
        if self._partial and not thought:  # a guess may have been wrong behind the last token but one
            read = min(read, start + max(0, len(said) - 1))
            self._backbone.seek(read)
        if thought:
            read = self._turn_start + sum(len(part.rows) for part in self._turn)
            self._backbone.seek(read)
            self._unread = answer
        else:
            rest = self._said(said[read - start :])
            self._unread = [rest] if rest.tokens else []
        self._held, self._turn_open = read, False
        self._past.append([*self._turn, *answer])

    def _said(self, steps: Sequence[Step]) -> _Part:
        """Return what the model said, as it was fed: rows of the token table but where a speaker led."""
        tokens = tuple(step.token for step in steps)
        rows = self._setting.table.rows(tokens)
        for at, step in enumerate(steps):
            if step.row is not None:
                rows[at] = step.row
        return _Part(tokens, rows, said=True)

    def _make_way(self, level: ComputeLevel) -> int:
        """Drop the oldest turns beyond what is wanted and what fits; return how many. Reads what is not read yet."""
        sizes = [sum(len(part.rows) for part in turn) + len(self.prompt.again) for turn in self._past]
        room = self._setting.context_tokens - len(self.prompt.opening) - len(self.prompt.before) - self._reserve
        room -= self._setting.context_tokens // _ROOM_FOR_SOUND
        wanted = kept = len(sizes) if self._turns_kept is None else min(self._turns_kept, len(sizes))
        full = sum(sizes[len(sizes) - kept :]) > room
        while kept and full and sum(sizes[-kept:]) > room // 2:  # half of it, so that this is not due at every turn
            kept -= 1
        undone = self._speaker is not None and self._turn_open  # what it read cannot be taken back alone
        if not kept or kept < len(sizes) or undone:
            self._begin(level)
            self._past = self._past[len(sizes) - kept :]
            for index, turn in enumerate(self._past):
                again = [self._text(self.prompt.again)] if index and self.prompt.again else []
                self._append([*again, *turn], level)
        else:
            self._backbone.seek(self._held)  # a turn that came to nothing is undone
            if self._unread:
                self._append(self._unread, level)
        self._held, self._unread = self._backbone.position, []
        return wanted - kept

    def _begin(self, level: ComputeLevel) -> None:
        """Forget all but the conversation's opening."""
        if self._speaker:
            self._speaker.open()
        if not self._opened:
            self._backbone.reset()
            self._opened = True
            if self.prompt.opening:
                self._append([self._text(self.prompt.opening)], level)
            return
        self._backbone.seek(len(self.prompt.opening))
        if self._speaker and self.prompt.opening:
            opening = self._text(self.prompt.opening)
            self._speaker.read(opening.tokens, opening.rows, None)

    def _read(self, tokens: Sequence[int], level: ComputeLevel) -> None:
        if tokens:
            self._append([self._text(tokens)], level)

    def _text(self, tokens: Sequence[int]) -> _Part:
        return _Part(tuple(tokens), self._setting.table.rows(tokens))

    def _append(self, parts: Sequence[_Part], level: ComputeLevel) -> None:
        """Prefill parts in one run, let the Speaker read along, and take note of them as this turn's."""
        embeds = np.concatenate([part.rows for part in parts])
        with self._setting.trace.span(PREFILL, len(embeds)):
            hidden = self._backbone.append(embeds, level)
        self._turn += parts
        if self._speaker is None:
            return
        at = 0
        for part in parts:
            stop = at + len(part.rows)
            if not part.said:
                self._speaker.read(part.tokens, part.rows, None if hidden is None else hidden[at:stop])
            at = stop
