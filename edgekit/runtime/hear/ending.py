"""Ending: whether a pause is the end of what was said, from how it sounds and what the model makes of the words before.

``ending`` is a pure function of Evidence; its thresholds are data, an EndingRule. The Gate asks it with what it hears,
who works again with what was written. What a recipe's gate takes for the end, ``min_silence_ms``, is the Gate's own.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.reprs import quoted

Ending = Literal["goes on", "pause", "end"]

_RANGES = {
    "pause_ms": (1, 600_000),
    "open_ms": (0, 600_000),
    "doubt": (0.0, 1.0),
    "fall_db": (0.0, 120.0),
    "patience": (0.0, 10.0),
}
_CLOSING = "\"'”’»)]}）」』"  # noqa: RUF001 - what may stand behind the mark that ends a sentence
_SENTENCE_ENDS = ".!?。！？؟।"  # noqa: RUF001 - those of other scripts too
_FAINTEST = 1e-12  # of the mean square: digital silence is as quiet as this
_QUIETEST_DB = 120.0


@dataclass(frozen=True, slots=True)
class EndingRule:
    """When a pause counts as the end of what was said, to be confirmed or withdrawn.

    pause_ms: so much silence at least. open_ms: so much more where the text before it does not end a sentence, or
    nothing is known of it. doubt: the highest score of the last window, as a share of the score at which sound counts.
    fall_db: by how much that window is quieter than the utterance at least. patience: so many times the longest silence
    of the utterance after which speech went on: who pauses for long does so again. Raises UsageError for a value out of
    range.
    """

    # Tried by profiles/bench/provisional-ends.py. Of recordings of one phrase few pauses of 200 ms are none. Less doubt
    # takes away pauses in noise and no end; 20 dB take away every end in noise at 10 dB, and a patience of 1.5 many of
    # those of several sentences.
    pause_ms: int = 200
    open_ms: int = 160
    doubt: float = 0.1
    fall_db: float = 6.0
    patience: float = 1.2

    def __post_init__(self) -> None:
        """Raise UsageError; see the class."""
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise UsageError(f"{name}: {quoted(value)}, {least:g} to {most:g} is needed; choose one of these")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at the end of a window of a pause: its silence so far, ``doubt`` and ``fall_db`` as EndingRule has
    them; the longest silence before, after which speech went on; and whether the text of what was said before ends a
    sentence, None where there is none yet.
    """

    silence_ms: float
    doubt: float
    fall_db: float
    longest_ms: float = 0.0
    ends_sentence: bool | None = None


def ending(evidence: Evidence, rule: EndingRule) -> Ending:
    """Return what a silence is: speech ``goes on``, as far as known; a ``pause``, perhaps an end; or the ``end``."""
    least_ms = max(rule.pause_ms, rule.patience * evidence.longest_ms)
    if evidence.silence_ms < least_ms or evidence.doubt > rule.doubt or evidence.fall_db < rule.fall_db:
        return "goes on"
    return "end" if evidence.ends_sentence or evidence.silence_ms >= least_ms + rule.open_ms else "pause"


def ends_sentence(text: str) -> bool:
    """Return whether a text ends with a mark that ends a sentence, quotes and brackets behind it left out.

    Three dots end none: models write them where they hear that a speaker is not done.
    """
    said = text.rstrip().rstrip(_CLOSING)
    return said.endswith(tuple(_SENTENCE_ENDS)) and not said.endswith("...")


class Loudness:
    """How loud an utterance is: the mean square of its windows that count."""

    def __init__(self) -> None:
        self._energy, self._samples = 0.0, 0

    def add(self, window: NDArray[np.float32]) -> None:
        """Take one more window (n,) that counts."""
        self._energy += _energy(window)
        self._samples += window.size

    def fall_db(self, window: NDArray[np.float32]) -> float:
        """Return by how many decibels a window (n,) is quieter, at most 120 and at least -120."""
        loud = self._energy / max(1, self._samples)
        quiet = _energy(window) / max(1, window.size)
        fall = 10 * math.log10(max(loud, _FAINTEST) / max(quiet, _FAINTEST))
        return min(_QUIETEST_DB, max(-_QUIETEST_DB, fall))


def _energy(window: NDArray[np.float32]) -> float:
    return float(np.square(window, dtype=np.float64).sum())
