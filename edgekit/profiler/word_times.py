"""Times of words and segments, against where recordings were joined.

Works on texts with times; knows no model. Long speech says of each recording where it begins and ends, not of each
word: so a text must lie in the recordings that its words are of, and one that begins or ends with a recording must do
so at that time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.profiler.long_speech import LongSpeech
from edgekit.profiler.words import same_words, words_of

WITHIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Timed:
    """A word or a segment, and when it was said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class TimeErrors:
    """Of times that could be checked, how far each is off: beyond its recordings, or from a join that it stands at.

    ``at_joins``: of the first and last words of recordings that were heard, each once; ``inside``: of each text whose
    words were heard, how far it reaches out of their recordings. ``impossible``: texts that end before they begin,
    begin before the one before, or lie outside of the sound.
    """

    at_joins: tuple[float, ...]
    inside: tuple[float, ...]
    impossible: tuple[str, ...]

    @property
    def checked(self) -> int:
        """How many times were checked."""
        return len(self.at_joins) + len(self.inside)

    def beyond(self, limit_s: float = WITHIN_S) -> int:
        """Return how many of them are off by more."""
        return sum(error > limit_s for error in (*self.at_joins, *self.inside))

    @property
    def worst_s(self) -> float:
        """The farthest off."""
        return max((*self.at_joins, *self.inside), default=0.0)


def check_times(speech: LongSpeech, heard: Sequence[Timed]) -> TimeErrors:
    """Return the TimeErrors of words or segments, in their order; needs jiwer and what ``words_of`` needs."""
    said = [(index, word) for index, one in enumerate(speech.said) for word in words_of(one.words)]
    written = [(index, word) for index, one in enumerate(heard) for word in words_of(one.text)]
    both = same_words([word for _, word in said], [word for _, word in written])
    at_joins: list[float] = []
    places: dict[int, list[int]] = {}
    for at, to in both:
        recording, text = said[at][0], written[to][0]
        places.setdefault(text, []).append(recording)
        if _begins(said, at) and _begins(written, to):
            at_joins.append(abs(heard[text].start_s - speech.said[recording].start_s))
        if _ends(said, at) and _ends(written, to):
            at_joins.append(abs(heard[text].end_s - speech.said[recording].end_s))
    inside = [
        max(
            speech.said[recordings[0]].start_s - heard[text].start_s,
            heard[text].end_s - speech.said[recordings[-1]].end_s,
            0.0,
        )
        for text, recordings in places.items()
    ]
    return TimeErrors(tuple(at_joins), tuple(inside), tuple(_impossible(heard, speech.seconds)))


def _begins(words: Sequence[tuple[int, str]], at: int) -> bool:
    """Return whether a word is the first of its recording or text."""
    return at == 0 or words[at - 1][0] != words[at][0]


def _ends(words: Sequence[tuple[int, str]], at: int) -> bool:
    """Return whether a word is the last of its recording or text."""
    return at == len(words) - 1 or words[at + 1][0] != words[at][0]


def _impossible(heard: Sequence[Timed], seconds: float) -> list[str]:
    found, before_s = [], 0.0
    for one in heard:
        if not before_s <= one.start_s <= one.end_s <= seconds + WITHIN_S:
            found.append(f"{one.text.strip()} ({one.start_s:.2f} to {one.end_s:.2f} s)")
        before_s = one.start_s
    return found
