"""Drafts: what an answer to the sound so far would be, how certain each token of it is, and what stands of it already.

Knows tokens and logits; knows nothing of when a draft is due, nor of what a caller was shown.
"""

import unicodedata
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Any, TypeVar, cast

import numpy as np

from edgekit.bundle import Sampling
from edgekit.runtime.answer.lookup import Guess
from edgekit.runtime.answer.sampler import Greedy, Limits, Mask, Sampler, unrepeated
from edgekit.runtime.engine import Array

# nats; where activations are rounded to integers in each layer the last bits of a sum decide, and how many tokens are
# read in one run changes these, and by them a margin; not by as much as this
CLOSE = 0.25
FARTHEST = 4.0  # nats: what another word lacks at most for anybody to look at it
_LOOKED_AT = 32  # tokens that are so near at most


@dataclass(frozen=True, slots=True)
class Begun:
    """The tokens that an answer begins with, and how many first ones of them belong to the answer before."""

    tokens: tuple[int, ...] = ()
    hidden: int = 0


NOT_BEGUN = Begun()


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a draft is to be written: at most ``max_steps`` tokens found one by one, after those that stand.

    ``keeps``: these bind the answer too, its language with them. ``own_s``: the second of the sound where the answer's
    own words begin.
    """

    max_steps: int
    begun: Begun = NOT_BEGUN
    keeps: bool = False
    own_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer to the sound so far: its tokens, and how many first ones of them belong to the answer before.

    ``margins``: how far each token led the likeliest one of another word, in nats, at most ``FARTHEST``; infinite where
    it stood already. ``end``: the same of the end, where the model ended it; minus infinity where it did not.
    """

    tokens: tuple[int, ...] = ()
    margins: tuple[float, ...] = ()
    end: float = -inf
    hidden: int = 0


NO_DRAFT = Draft()


class Margins:
    """Another sampler's choices, and how far each one led all that would have been another word.

    Another case or another mark of punctuation is the same word: it changes nothing that was said.
    """

    def __init__(self, chosen: Sampler, limits: Limits, sampling: Sampling, word: Callable[[int], object]) -> None:
        self._chosen, self._mask, self._sampling, self._word = chosen, Mask(limits), sampling, word
        self._margins: dict[int, float] = {}
        self._ends: dict[int, float] = {}

    def draft(self, tokens: Sequence[int], hidden: int = 0) -> Draft:
        """Return the Draft of the answer that was chosen; tokens that nobody chose here stood before."""
        margins = tuple(self._margins.get(at, inf) for at in range(len(tokens)))
        return Draft(tuple(tokens), margins, self._ends.get(len(tokens), -inf), hidden)

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler."""
        token = self._chosen.pick(logits, said)
        allowed = self._mask.apply(np.array(logits, np.float32), not said)
        ends = token in self._mask.stops
        margin = self._margin(unrepeated(allowed, self._sampling, said), token)
        (self._ends if ends else self._margins)[len(said)] = margin
        return token

    def _margin(self, logits: Array, token: int) -> float:
        (near,) = (logits > logits[token] - FARTHEST).nonzero()
        near = near[np.argsort(-logits[near], kind="stable")][:_LOOKED_AT]
        word = self._word(token)
        other = next((one for one in near.tolist() if one != token and self._word(one) != word), None)
        if other is not None:
            return float(logits[token] - logits[other])
        return float(logits[token] - logits[near[-1]]) if len(near) == _LOOKED_AT else FARTHEST

    def mark(self) -> object:
        """Return where the draws stand."""
        return self._chosen.mark()

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the sampler's own
        """Draw again what was drawn since the mark."""
        self._chosen.back(mark)


class CloseCallError(Exception):
    """A choice among checked tokens that could be another one if they were not; ``said``: those before it."""

    def __init__(self, said: Sequence[int]) -> None:
        super().__init__("a close call")
        self.said = tuple(said)


class Careful:
    """Another sampler's choices, as long as none is close; raises CloseCallError for one that is."""

    def __init__(self, chosen: Sampler, limits: Limits, sampling: Sampling) -> None:
        self._chosen, self._mask, self._sampling = chosen, Mask(limits), sampling

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler."""
        token = self._chosen.pick(logits, said)
        allowed = unrepeated(self._mask.apply(np.array(logits, np.float32), not said), self._sampling, said)
        if np.count_nonzero(allowed > allowed[token] - CLOSE) > 1:
            raise CloseCallError(said)
        return token

    def mark(self) -> object:
        """Return where the draws stand."""
        return self._chosen.mark()

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the sampler's own
        """Draw again what was drawn since the mark."""
        self._chosen.back(mark)


Piece = TypeVar("Piece")
End = TypeVar("End")


def checked(
    guessed: tuple[int, ...],
    sampler: Sampler,
    limits: Limits,
    write: Callable[[Guess, Sampler], Generator[Piece, None, End]],
) -> Generator[Piece, None, End]:
    """Yield and return what ``write`` does without a guess, but with one as long as no choice is close.

    How many tokens are read in one run changes the last bits of the logits. From a close call on all is written again,
    token by token. What is drawn is not guessed at all.
    """
    if not guessed or not isinstance(sampler, Greedy):
        return (yield from write(Guess(), sampler))
    count, pieces = 0, write(Guess(guessed), Careful(sampler, limits, sampler.sampling))
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return cast("End", end.value)
        except CloseCallError as call:
            said = call.said
            break
        yield piece
        count += 1
    again = write(Guess(said, len(said), singly=True) if said else Guess(), sampler)
    for _ in range(count):
        next(again)
    return (yield from again)


@dataclass(frozen=True, slots=True)
class Spelling:
    """What of a token is heard: whether it begins a word, and its letters; the same for all that differ in form alone.

    A token without letters is a mark; one without any text, such as an end, is like no other.
    """

    decode: Callable[[Sequence[int]], str]
    _known: Callable[[int], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Remember what was asked for: it is the same few tokens over and over."""
        object.__setattr__(self, "_known", lru_cache(maxsize=4096)(self._spelled))

    def __call__(self, token: int) -> object:
        """Return it."""
        return self._known(token)

    def _spelled(self, token: int) -> object:
        text = self.decode([token])
        letters = "".join(one for one in text.casefold() if one.isalnum() or one == "'")
        if not text or "\ufffd" in text:
            return token
        return bool(letters) and text[0].isspace(), letters


def begins_word(text: str, rest: str) -> bool:
    """Return whether no word goes on from one text into the rest, marks at its beginning left aside."""
    marks = next((at for at, one in enumerate(rest) if not unicodedata.category(one).startswith("P")), len(rest))
    behind = rest[marks : marks + 1]
    if not behind or behind.isspace() or text[-1].isspace():
        return True
    return _stands_alone(behind) or (not marks and _stands_alone(text[-1]))


def _stands_alone(character: str) -> bool:
    """Return whether a character is of a script that puts no spaces between words."""
    return unicodedata.east_asian_width(character) in "WF"
