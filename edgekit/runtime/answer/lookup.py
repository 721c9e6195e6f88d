"""Sequences of tokens: what an answer will probably be, what two texts share, where one repeats itself.

Knows tokens only. A guess lets many tokens be checked in one run of the backbone; where the answer takes another way,
it is picked up again as soon as the two meet. Sources: speculative decoding, Leviathan et al. 2023 (arXiv:2211.17192),
here for greedy choices; the guess comes from a text at hand and not from a second model, as in prompt lookup decoding,
Saxena 2023. Small models say one phrase for ever on sound they do not understand, but people repeat words too: a loop
is several repeats of one phrase that are also long together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CHECKED_AT_ONCE = 32  # tokens: larger runs are hardly cheaper per token, and a wrong guess costs more
LONGEST_PHRASE = 24  # tokens
TOKENS_A_REPEAT = 4  # a shorter phrase needs more repeats: people say "no, no, no" and read out "0, 0, 0, 0, 0, 0"
_MEETING = 2  # tokens in a row: one alone, such as a comma, stands in many places
_REACH = 16  # tokens that the guess may be ahead


@dataclass(frozen=True, slots=True)
class Guess:
    """The tokens, and how far to go on where they end or turn out wrong: at most ``max_steps`` runs for one token each.

    ``settled`` of them are not checked but fed behind the prompt, in the same run unless ``singly``. ``timed``: whether
    runs get spans.
    """

    tokens: tuple[int, ...] = ()
    settled: int = 0
    max_steps: int | None = None
    timed: bool = True
    singly: bool = False


class Lookup:
    """Reads a guess beside the answer that comes into being."""

    def __init__(self, tokens: Sequence[int], said: int) -> None:
        """Begin after the first ``said`` tokens, which are the answer's too."""
        self._tokens, self._at = tokens, said
        self._meets = True

    def next(self, at_most: int) -> Sequence[int]:
        """Return the tokens that probably come next; none if that is unknown."""
        return self._tokens[self._at : self._at + min(at_most, CHECKED_AT_ONCE)] if self._meets else ()

    def follow(self, said: Sequence[int], right: int) -> None:
        """Find the place again. said: the answer so far; right: how many of ``next`` it took."""
        self._at += right
        last = list(said[-_MEETING:])
        for end in range(self._at + 1, min(len(self._tokens), self._at + _REACH) + 1):
            if list(self._tokens[max(0, end - _MEETING) : end]) == last:
                self._at, self._meets = end, True
                return
        self._meets = False


def agreed(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many first items two sequences share. Source: local agreement, Machacek et al. 2023."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def loop_start(tokens: Sequence[int], repeats: int | None) -> int | None:
    """Return how many tokens to keep if the last ones are a ``loop``: the phrase is kept once."""
    phrase = loop(tokens, repeats)
    return None if phrase is None else phrase.stop


def loop(tokens: Sequence[int], repeats: int | None) -> range | None:
    """Return the places of the first of the last tokens' phrases if it was said ``repeats`` times in a row, else None.

    Those of a phrase below four tokens must be as long together as if it had four. The shortest phrase that fits is
    meant. ``repeats`` None looks for no loop.
    """
    if repeats is None:
        return None
    for size in range(1, min(LONGEST_PHRASE, len(tokens) // repeats) + 1):
        span = -(-max(size, TOKENS_A_REPEAT) * repeats // size) * size
        if span > len(tokens):
            continue
        tail = tokens[-span:]
        if all(tail[at] == tail[at % size] for at in range(size, span)):
            return range(len(tokens) - span, len(tokens) - span + size)
    return None
