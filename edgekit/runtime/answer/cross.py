"""CrossAnswerer: a backbone that attends to the utterance through a cross-KV beside its tokens, as Whisper does.

The KV caches of encoder and backbone are in-place state of their Calls; what is gathered here is the cross-KV.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.bundle import ComputeLevel
from edgekit.errors import BundleFormatError, UsageError
from edgekit.runtime.answer.answerer import Setting, Span, untimed
from edgekit.runtime.answer.lookup import Guess, agreed
from edgekit.runtime.answer.prompt import DETECTED, cross_prompt
from edgekit.runtime.answer.sampler import Greedy, Sampler, likeliest
from edgekit.runtime.engine import Array
from edgekit.spans import DRAFT, PREFILL

OPEN_TOKENS = 12  # of a partial, checked again by the next: what ordinary speech says in three seconds


class CrossCache:
    """Keys and values of one utterance for cross-attention; rows 2i and 2i + 1 belong to decoder layer i.

    The attention op wants contiguous arrays of exactly the positions heard. ``make_room`` lays them out for a number of
    positions still to come, while there is time; where the guess was right, packing at the end copies nothing. Arrays
    once returned are not written again, and are not writeable either: a backend may keep its own copy of them.
    """

    def __init__(self, layers: int, heads: int, head_dim: int, max_positions: int, dtype: str = "float32") -> None:
        self.positions = 0
        self._dtype = np.dtype(dtype)
        self._shape = (2 * layers, heads, head_dim)
        self._max_positions = max_positions
        self._laid = self._empty(0)

    def append(self, cross: Array) -> None:
        """Add positions. cross: (2 * layers, heads, n, head_dim), copied."""
        assert (cross.shape[0], cross.shape[1], cross.shape[3]) == self._shape, cross.shape
        if not cross.shape[2]:
            return
        start, self.positions = self.positions, self.positions + cross.shape[2]
        assert self.positions <= self._max_positions, f"{self.positions} positions, room for {self._max_positions}"
        if self.positions > self._laid[0].shape[2]:
            self._lay(self.positions, start)
        for row, array in enumerate(self._laid):
            array[0, :, start : self.positions] = cross[row]

    def make_room(self, positions: int) -> None:
        """Lay the arrays out for exactly this many positions more, as far as the encoder has them."""
        self._lay(min(self.positions + positions, self._max_positions), self.positions)

    def packed(self) -> list[Array]:
        """Return 2 * layers contiguous arrays (1, heads, positions, head_dim), the same ones while nothing is added."""
        if self._laid[0].shape[2] != self.positions:
            self._lay(self.positions, self.positions)
        for array in self._laid:
            array.flags.writeable = False
        return self._laid

    def back(self, positions: int) -> None:
        """Forget all but the first positions. Arrays that were handed out are left alone."""
        self._lay(positions, positions)
        self.positions = positions

    def reset(self) -> None:
        """Forget the utterance."""
        self.positions = 0
        self._laid = self._empty(0)

    def _lay(self, size: int, held: int) -> None:
        """Move the first ``held`` positions into arrays of ``size`` positions."""
        wider = self._empty(size)
        for old, new in zip(self._laid, wider, strict=True):
            new[0, :, :held] = old[0, :, :held]
        self._laid = wider

    def _empty(self, positions: int) -> list[Array]:
        rows, heads, head_dim = self._shape
        return [np.empty((1, heads, positions, head_dim), self._dtype) for _ in range(rows)]


@dataclass(frozen=True, slots=True)
class CrossMark:
    """Where a CrossAnswerer stood: positions heard, what is known of the last partial, and the draws."""

    positions: int
    prompt: tuple[int, ...]
    partial: tuple[int, ...]
    agreed: int
    draws: object


class CrossAnswerer:
    """Sound goes into a CrossCache; the backbone reads it for the answer, and before that for partials.

    A partial guesses what the next one and the answer will be. The answer checks all of it against all of the sound; a
    partial only the last tokens of the former one, since what two of them agreed on long ago rarely changes.
    """

    converses = False

    def __init__(self, setting: Setting, language: str | None, task: str | None) -> None:
        """Raise UsageError for a language or task that the bundle does not have."""
        protocol = setting.manifest.protocol
        self.prompt = cross_prompt(protocol, language, task)
        requested = language or protocol.language
        self.language = None if requested == DETECTED else requested
        self._languages = {token: name for name, token in protocol.languages.items()}
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
        self._agreed = 0  # tokens of it that the partial before had too
        needed = len(self.prompt.start) + bool(self.prompt.languages) + len(self.prompt.rest)
        if needed > setting.context_tokens:
            raise UsageError(
                f"context_tokens: {setting.context_tokens}, the start of an answer alone takes {needed}; "
                "load the bundle with more"
            )

    def open(self, level: ComputeLevel) -> int:  # noqa: ARG002 - the other answerer needs it
        """Begin an utterance; nothing is computed and nothing was remembered."""
        self._cache.reset()
        self._prompt, self._partial, self._agreed = [], (), 0
        return 0

    def hear(self, heard: Array, level: ComputeLevel) -> None:  # noqa: ARG002 - the other answerer needs it
        """Take ``cross`` (2 * layers, heads, n, head_dim); the Grid ends an utterance before there is no room."""
        self._cache.append(heard)

    def prepare(self) -> None:
        """Lay the cross-KV out for the chunks that an ending utterance still brings."""
        self._cache.make_room(self._ending_positions)

    def partial(self, level: ComputeLevel, heard_s: float, max_steps: int) -> tuple[int, ...]:
        """Return tokens; see Answerer. Only the last ones of the former are checked again, to bound the cost."""
        with self._setting.trace.span(DRAFT):
            former, self._prompt = self._prompt, self._begin(level, untimed)
            settled = max(0, self._agreed - OPEN_TOKENS) if self._prompt == former else 0
            guess = Guess(self._partial, settled, max_steps, timed=False)
            partial = (*self._partial[:settled], *self._answer(level, heard_s, guess, self._likeliest))
            self._partial, self._agreed = partial, agreed(self._partial, partial)
        return self._partial

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
            self._cache.positions, tuple(self._prompt), self._partial, self._agreed, self._setting.sampler.mark()
        )

    def back(self, mark: "CrossMark") -> None:
        """Go back to a mark; see Answerer."""
        self._cache.back(mark.positions)
        self._prompt, self._partial, self._agreed = list(mark.prompt), mark.partial, mark.agreed
        self._setting.sampler.back(mark.draws)

    def think(self, level: ComputeLevel) -> Generator[int, None, None]:  # noqa: ARG002 - as Answerer has it
        """Yield nothing: such a model has no thoughts."""
        yield from ()

    def answer(self, level: ComputeLevel, heard_s: float | None) -> Generator[int, None, None]:
        """Yield tokens; see Answerer. Without a given language the likeliest one is chosen first."""
        self._prompt = self._begin(level, self._setting.trace.span)
        yield from self._answer(level, heard_s, Guess(self._partial))

    def _begin(self, level: ComputeLevel, span: Span) -> list[int]:
        """Attend to all that was heard and return the prompt that is still to be read."""
        self._backbone.reset(self._cache.packed())
        prompt = self.prompt
        if not prompt.languages:
            return [*prompt.start, *prompt.rest]
        with span(PREFILL, len(prompt.start)):
            (logits,) = self._backbone.logits(self._setting.table.rows(prompt.start), level)
        likeliest = prompt.languages[int(np.argmax(logits[list(prompt.languages)]))]
        self.language = self._languages[likeliest]
        return [likeliest, *prompt.rest]

    def _answer(
        self, level: ComputeLevel, heard_s: float | None, guess: Guess, sampler: Sampler | None = None
    ) -> Iterator[int]:
        rows = self._setting.table.rows(self._prompt)
        return self._setting.tokens(self._backbone, rows, level, heard_s, guess=guess, sampler=sampler)
