"""Words of texts in any language: how many changed, and how many may change before a limit is exceeded.

A handful of clips holds some hundred words, which cannot resolve a loss of 1 %. So a share of words is beyond its limit
only where chance does not explain it: where as many changed words come from a loss of just the limit in less than
5 % of such samples; where each of several languages is looked at, in less than 5 % of such samples of all of them. Of
320 words at 1 % six may change, and of the 64 of one language of five, three.
"""

import math
import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_BY_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Tally:
    """Words of the references of some clips, and how many of them changed: replaced, deleted or inserted."""

    words: int
    changed: int

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.words + other.words, self.changed + other.changed)

    @property
    def rate(self) -> float:
        """Changed words / words; of no words, 1 where some were inserted."""
        return self.changed / self.words if self.words else float(self.changed > 0)

    def exceeds(self, limit: float, looks: int = 1) -> bool:
        """Return whether more words changed than a loss of ``limit`` and chance explain, of so many ``looks`` at it."""
        return limit < 1 and self.changed > allowed_words(self.words, limit, looks)


def words_of(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits in any script, case folded, without signs."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def tally(reference: str, text: str) -> Tally:
    """Return the words of a reference and how many of them ``text`` has otherwise."""
    from jiwer import process_words

    expected, found = words_of(reference), words_of(text)
    if not expected or not found:
        return Tally(len(expected), len(expected) + len(found))
    result = process_words(" ".join(expected), " ".join(found))
    return Tally(len(expected), result.substitutions + result.deletions + result.insertions)


def allowed_words(words: int, rate: float, looks: int = 1) -> int:
    """Return the largest count of changed words that a loss of just ``rate`` reaches in 5 % of samples or more.

    looks: how often one looks for such a count; each then takes its part of the 5 %.
    """
    if not 0 < rate < 1:
        return words if rate >= 1 else 0
    reached, count = 1.0, 0  # the share of samples with `count` changed words or more
    while count <= words and reached >= _BY_CHANCE / looks:
        ways = math.lgamma(words + 1) - math.lgamma(count + 1) - math.lgamma(words - count + 1)
        reached -= math.exp(ways + count * math.log(rate) + (words - count) * math.log1p(-rate))
        count += 1
    return count - 1
