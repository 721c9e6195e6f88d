"""Words: what was heard against what was said.

Works on texts; knows no model. Reference texts have one line a recording: its name, a tab,
its words, and where it must not be scored a further tab and the reason. Lines that begin with # are comments.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ProfileError
from edgekit.profiler.comparison import Ratio


@dataclass(frozen=True, slots=True)
class Reference:
    """The words of one recording; ``left_out``: why it is not scored, empty if it is."""

    words: str
    left_out: str = ""


def read_references(path: str | os.PathLike[str]) -> dict[str, Reference]:
    """Return recording name -> Reference; raises ProfileError for a line of another form or a name said twice."""
    found: dict[str, Reference] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.split("\t")
        if not 1 <= len(rest) <= 2 or name in found:
            raise ProfileError(
                f"{path}, line {number}: '{line[:60]}', expected a new name, its words, perhaps a reason"
            )
        found[name] = Reference(*rest)
    return found


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Of one subject on some clips, in their order: words wrong and words said."""

    wrong: tuple[int, ...]
    said: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WordCounts:
    """Words said, and what became of them: said = hits + substitutions + deletions; ``insertions`` came besides."""

    said: int
    substitutions: int
    deletions: int
    insertions: int

    def __add__(self, other: "WordCounts") -> "WordCounts":
        return WordCounts(
            self.said + other.said,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def wrong(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions


def words_of(text: str) -> list[str]:
    """Return the words that Whisper's English normaliser leaves of a text; to it, an ellipsis is one too."""
    return str(_normaliser()(text.replace("...", " "))).split()


def count_errors(references: Sequence[str], heard: Sequence[str]) -> WordErrors:
    """Return the WordErrors of texts under Whisper's English normaliser: substitutions, deletions and insertions.

    Raises ProfileError for a reference without a word. Needs jiwer and whisper-normalizer.
    """
    counts = [count_words(reference, text) for reference, text in zip(references, heard, strict=True)]
    return WordErrors(tuple(one.wrong for one in counts), tuple(one.said for one in counts))


def count_words(reference: str, heard: str) -> WordCounts:
    """Return the WordCounts of one text; normalised and refused as ``count_errors`` does."""
    import jiwer

    if not (words := words_of(reference)):
        raise ProfileError(f"reference '{reference}': no word is left after normalising; leave the clip out")
    count = jiwer.process_words(" ".join(words), " ".join(words_of(heard)))
    return WordCounts(len(words), count.substitutions, count.deletions, count.insertions)


def same_words(reference: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places (in reference, in heard) of the words that both have, in order; needs jiwer.

    By one of the alignments with the fewest substitutions, deletions and insertions.
    """
    import jiwer

    if not reference or not heard:
        return []
    chunks = jiwer.process_words(" ".join(reference), " ".join(heard)).alignments[0]
    return [
        (chunk.ref_start_idx + step, chunk.hyp_start_idx + step)
        for chunk in chunks
        if chunk.type == "equal"
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def bootstrap_difference(
    name: str, ours: WordErrors, theirs: WordErrors, *, resamples: int = 1000, seed: int = 0
) -> Ratio:
    """Return the difference of two word error rates on the same clips with its 95 % interval over clips, seeded.

    Both rates come from the same draw of clips, so what makes a clip hard for both does not widen the interval.
    """
    assert ours.said == theirs.said, "both subjects hear the same words"
    difference = np.asarray(ours.wrong, np.float64) - np.asarray(theirs.wrong, np.float64)
    words = np.asarray(ours.said, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(words), (resamples, len(words)))
    low, high = np.percentile(difference[picks].sum(axis=1) / words[picks].sum(axis=1), (2.5, 97.5))
    return Ratio(
        name=name,
        value=round(float(difference.sum() / words.sum()), 5),
        low=round(float(low), 5),
        high=round(float(high), 5),
        interval=f"95 %, paired bootstrap of {resamples} over clips",
        n=len(words),
    )


class Heard:
    """Texts that were heard, kept in a file line by line, so that a run that was stopped goes on where it was.

    The file is its owner's alone; a line that a kill cut short was not heard.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        self._known: dict[tuple[str, ...], Mapping[str, Any]] = {
            tuple(key): found for key, found in map(json.loads, whole.splitlines())
        }

    def get(self, key: Sequence[str], hear: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what was heard under a key (everything that could change it); call ``hear`` if it is not known yet."""
        known = tuple(key)
        if known not in self._known:
            self._known[known] = hear()
            with open(
                self._path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)
            ) as stream:
                stream.write(json.dumps([known, self._known[known]]) + "\n")
        return self._known[known]


@lru_cache(maxsize=1)
def _normaliser() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer  # type: ignore[import-untyped]

    normalise: Callable[[str], str] = EnglishTextNormalizer()
    return normalise
