"""The backbone's side of a stream: what it is told while the user talks, and its answer, token by token.

Two ways to attend to sound, by the bundle's protocol: CrossDecoder (Whisper: a cross-KV beside the tokens) and
PrefixDecoder (audio embeddings stand among the tokens). Knows nothing of samples, utterance bounds or text output.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.bundle import ComputeLevel, Manifest
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.cache import CrossCache
from edgekit.runtime.embedding import TokenTable
from edgekit.runtime.engine import Array, Engine
from edgekit.runtime.guess import Guess, Lookup, agreed
from edgekit.runtime.loops import loop_start
from edgekit.runtime.sampler import Sampler
from edgekit.runtime.text import Tokenizer
from edgekit.timing import Trace

_SPARE_TOKENS = 8  # an answer to a very short sound may still be a word
_DEFAULT_TASK = "transcribe"
OPEN_TOKENS = 12  # of a draft, checked again by the next: what ordinary speech says in three seconds

_NO_GUESS = Guess()
_Span = Callable[[str, int], AbstractContextManager[None]]


def _untimed(_name: str, _count: int = 1) -> AbstractContextManager[None]:
    return nullcontext()


class Decoder(Protocol):
    """One stream's conversation with the backbone."""

    def open(self, level: ComputeLevel) -> None:
        """Begin an utterance."""
        ...

    def hear(self, heard: Array, level: ComputeLevel) -> Array | None:
        """Take one adapter output; return what found no room, to be heard again after the next ``open``, or None."""
        ...

    def prepare(self) -> None:
        """Do what can be done before the sound ends; called after each chunk heard while it still goes on."""
        ...

    def draft(self, level: ComputeLevel, heard_s: float, max_steps: int) -> tuple[int, ...]:
        """Return the answer to the ``heard_s`` seconds heard so far, or its beginning; none if this decoder cannot.

        At most ``max_steps`` tokens are found one by one, those of the former draft come cheaper. It is for showing,
        and makes ``answer`` quicker, which does not depend on it otherwise.
        """
        ...

    def next_piece(self) -> bool:
        """Say whether the same utterance goes on when the encoder starts its next piece."""
        ...

    def answer(self, level: ComputeLevel, heard_s: float) -> Iterator[int]:
        """Yield the tokens of the answer to an utterance of ``heard_s`` seconds, without the token that ends it."""
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

    def append(self, embeds: Array, level: ComputeLevel) -> None:
        """Add embeddings (n, hidden) and ask for no logits, which costs no head."""
        self._run(embeds, self._no_rows, level)

    def logits(self, embeds: Array, level: ComputeLevel, last: int = 1) -> Array:
        """Add embeddings (n, hidden) and return the logits (last, vocabulary) after each of the ``last`` ones."""
        if len(embeds) == 1:
            self._one_row[:] = embeds
            return self._run(self._one_row, self._first_row, level)
        return self._run(embeds, np.arange(len(embeds) - last, len(embeds)), level)

    def _run(self, embeds: Array, rows: Array, level: ComputeLevel) -> Array:
        assert len(embeds) <= self.room, f"{len(embeds)} tokens, room for {self.room}"
        if self._experts is not None:
            self._experts[0] = level.experts_per_token
        self._inputs["embeds"], self._inputs["logit_rows"] = embeds, rows
        logits = self._call.run(self._inputs)["logits"]
        self._start += len(embeds)
        return logits


@dataclass(frozen=True, slots=True)
class Setting:
    """What every decoder of a stream needs."""

    manifest: Manifest
    engine: Engine
    table: TokenTable
    tokenizer: Tokenizer
    sampler: Sampler
    trace: Trace
    context_tokens: int

    def backbone(self) -> Backbone:
        """Return a Backbone with a KV cache of its own."""
        return Backbone(self.engine, self.table.width, self.context_tokens)

    def tokens(
        self, backbone: Backbone, prompt: Array, level: ComputeLevel, heard_s: float, guess: Guess = _NO_GUESS
    ) -> Iterator[int]:
        """Prefill the prompt's rows (n, hidden) and yield tokens until one of the protocol's ends is met.

        The guess decides what this costs and not what it yields, settled tokens apart: whatever is checked in one run
        goes through the same choice, token by token, and what the KV cache holds beyond the last one is replaced.
        """
        protocol, span = self.manifest.protocol, self.trace.span if guess.timed else _untimed
        limit = min(protocol.max_tokens, backbone.room - len(prompt) + 1)  # the last token is not read back
        if protocol.max_tokens_per_s is not None:
            limit = min(limit, int(protocol.max_tokens_per_s * heard_s) + _SPARE_TOKENS)
        said = list(guess.tokens[: guess.settled])
        lookup = Lookup(guess.tokens, len(said))
        answer_start = backbone.position + len(prompt)

        def take(rows: Array, checked: Sequence[int]) -> int | None:
            """Choose the token after each row while those that were checked are right; return how many, None to end."""
            for right, logits in enumerate(rows):
                token = self.sampler.pick(logits, first=not said)
                if token in protocol.stop:
                    return None
                said.append(token)
                if len(said) >= limit or loop_start(said, protocol.max_repeats) is not None:
                    return None
                if token not in checked[right : right + 1]:
                    return right
            raise AssertionError("after the row of the last checked token any token is new")

        first, steps, checked = True, 0, lookup.next(limit - len(said) - 1)
        while first or checked or steps != guess.max_steps:
            before, unread = len(said), prompt
            if said:  # the last of them is chosen, not read
                backbone.seek(answer_start + before - 1)
                unread = self.table.rows(said[-1:])
            name = "prefill" if first or checked else "decode"
            with span(name, len(unread) + len(checked)):
                embeds = np.concatenate((unread, self.table.rows(checked))) if checked else unread
                right = take(backbone.logits(embeds, level, last=1 + len(checked)), checked)
            yield from said[before:]
            if right is None:
                return
            lookup.follow(said, right)
            first, steps, checked = False, steps + (name == "decode"), lookup.next(limit - len(said) - 1)


class CrossDecoder:
    """Sound goes into a CrossCache; the backbone reads it for the answer, and before that for drafts.

    A draft guesses what the next draft and the answer will be. The answer checks all of it against all of the sound; a
    draft only the last tokens of the former one, since what two drafts agreed on long ago rarely changes.
    """

    def __init__(self, setting: Setting, language: str | None, task: str | None) -> None:
        """Raise UsageError for a language or task that the bundle does not have."""
        protocol = setting.manifest.protocol
        self._setting = setting
        self._backbone = setting.backbone()
        (cross,) = (spec for spec in setting.manifest.components["adapter"].outputs if spec.name == "cross")
        rows, heads, _, head_dim = cross.shape
        if not (isinstance(rows, int) and isinstance(heads, int) and isinstance(head_dim, int)):
            raise BundleFormatError(
                f"adapter: output 'cross' is {cross.shape}, only its third size may be free; export it again"
            )
        self._cache = CrossCache(rows // 2, heads, head_dim, setting.manifest.grid.max_positions)
        grid = setting.manifest.grid
        # an utterance ends within a chunk: the rest of it and the silence after it, filled to whole chunks
        ending_frames = -(-(grid.tail_frames + 1) // grid.pad_to_frames) * grid.pad_to_frames
        self._ending_positions = ending_frames // grid.frames_per_position
        self._prompt: list[int] = []  # of the last draft, as far as it was read with it
        self._draft: tuple[int, ...] = ()
        self._agreed = 0  # tokens of it that the draft before had too
        self._start = list(protocol.start)
        self._languages = [] if language is not None else list(protocol.languages.values())
        self._rest: list[int] = []
        if language is not None:
            self._rest.append(_choice("language", language, protocol.languages))
        if task is not None or protocol.tasks:
            self._rest.append(_choice("task", task or _DEFAULT_TASK, protocol.tasks))
        self._rest += protocol.start_tail
        needed = len(self._start) + bool(self._languages) + len(self._rest)
        if needed > setting.context_tokens:
            raise UsageError(
                f"context_tokens: {setting.context_tokens}, the start of an answer alone takes {needed}; "
                "load the bundle with more"
            )

    def open(self, level: ComputeLevel) -> None:  # noqa: ARG002 - the other decoder needs it
        """Begin an utterance; nothing is computed."""
        self._cache.reset()
        self._prompt, self._draft, self._agreed = [], (), 0

    def hear(self, heard: Array, level: ComputeLevel) -> None:  # noqa: ARG002 - the other decoder needs it
        """Take ``cross`` (2 * layers, heads, n, head_dim); the Grid ends an utterance before there is no room."""
        self._cache.append(heard)

    def prepare(self) -> None:
        """Lay the cross-KV out for the chunks that an ending utterance still brings."""
        self._cache.make_room(self._ending_positions)

    def draft(self, level: ComputeLevel, heard_s: float, max_steps: int) -> tuple[int, ...]:
        """Return tokens; see Decoder. Only the last ones of the former draft are checked again, to bound the cost."""
        with self._setting.trace.span("draft"):
            former, self._prompt = self._prompt, self._begin(level, _untimed)
            settled = max(0, self._agreed - OPEN_TOKENS) if self._prompt == former else 0
            guess = Guess(self._draft, settled, max_steps, timed=False)
            draft = (*self._draft[:settled], *self._answer(level, heard_s, guess))
            self._draft, self._agreed = draft, agreed(self._draft, draft)
        return self._draft

    def next_piece(self) -> bool:
        """Return False: one piece of sound is one answer."""
        return False

    def answer(self, level: ComputeLevel, heard_s: float) -> Iterator[int]:
        """Yield tokens; see Decoder. Without a given language the likeliest one is chosen first."""
        self._prompt = self._begin(level, self._setting.trace.span)
        yield from self._answer(level, heard_s, Guess(self._draft))

    def _begin(self, level: ComputeLevel, span: _Span) -> list[int]:
        """Attend to all that was heard and return the prompt that is still to be read."""
        self._backbone.reset(self._cache.packed())
        if not self._languages:
            return self._start + self._rest
        with span("prefill", len(self._start)):
            (logits,) = self._backbone.logits(self._setting.table.rows(self._start), level)
        return [self._languages[int(np.argmax(logits[self._languages]))], *self._rest]

    def _answer(self, level: ComputeLevel, heard_s: float, guess: Guess) -> Iterator[int]:
        rows = self._setting.table.rows(self._prompt)
        return self._setting.tokens(self._backbone, rows, level, heard_s, guess)


class PrefixDecoder:
    """Sound goes into the backbone's own KV cache, between the protocol's texts, while the user still talks.

    It writes no drafts: such a model may reply instead of writing down, and a reply to half a question is no use.
    """

    def __init__(self, setting: Setting, system: str | None, prompt: str | None) -> None:
        """Raise UsageError if the texts around the sound leave no room for sound."""
        protocol, encode = setting.manifest.protocol, setting.tokenizer.encode
        self._setting = setting
        self._backbone = setting.backbone()
        before = encode(protocol.before.replace("{system}", protocol.system if system is None else system))
        after = encode(protocol.after.replace("{prompt}", protocol.prompt if prompt is None else prompt))
        self._before, self._after = setting.table.rows(before), setting.table.rows(after)
        self._between = setting.table.rows(encode(protocol.between))
        self._reserve = len(after) + min(protocol.max_tokens, setting.context_tokens // 4)
        if setting.context_tokens - len(before) - self._reserve < 1:
            raise UsageError(
                f"context_tokens: {setting.context_tokens}, the prompt takes {len(before) + len(after)} and the answer "
                f"{self._reserve - len(after)}; shorten the prompt or load the bundle with more"
            )
        self._pending = self._before
        self._heard = 0

    def open(self, level: ComputeLevel) -> None:
        """Begin an utterance: the text before the sound is prefilled at once."""
        self._backbone.reset()
        self._heard = 0
        self._pending = self._before[:0]
        if len(self._before):
            self._append(self._before, level)

    def hear(self, heard: Array, level: ComputeLevel) -> Array | None:
        """Prefill embeddings (n, hidden); see Decoder. A lone output larger than the KV cache is cut in two."""
        room = self._backbone.room - self._reserve - len(self._pending)
        if room < 1 or (self._heard and len(heard) > room):
            return heard
        self._append(np.concatenate((self._pending, heard[:room])), level)
        self._pending = self._before[:0]
        self._heard += len(heard[:room])
        return heard[room:] if len(heard) > room else None

    def prepare(self) -> None:
        """Do nothing: hearing is the prefill."""

    def draft(self, level: ComputeLevel, heard_s: float, max_steps: int) -> tuple[int, ...]:  # noqa: ARG002 - as Decoder has it
        """Return nothing; see the class."""
        return ()

    def next_piece(self) -> bool:
        """Return True: the text ``between`` pieces goes in with the next piece's first embeddings."""
        self._pending = self._between
        return True

    def answer(self, level: ComputeLevel, heard_s: float) -> Iterator[int]:
        """Yield tokens; see Decoder."""
        yield from self._setting.tokens(self._backbone, self._after, level, heard_s)

    def _append(self, embeds: Array, level: ComputeLevel) -> None:
        with self._setting.trace.span("prefill", len(embeds)):
            self._backbone.append(embeds, level)


def _choice(kind: str, name: str, known: dict[str, int]) -> int:
    if name not in known:
        offered = f"choose one of: {', '.join(known)}" if known else f"it has no choice of {kind}: leave it out"
        raise UsageError(f"{kind}: '{name}' is not in this bundle; {offered}")
    return known[name]
