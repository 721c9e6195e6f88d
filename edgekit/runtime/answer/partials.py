"""Partials: text of an utterance that still goes on: when it is written anew, how much of it stands, what is shown.

Knows times and texts; knows nothing of tokens or engines. The Stream asks it, the Answerer writes.
"""

import math
from dataclasses import dataclass

from edgekit.runtime.answer.lookup import agreed
from edgekit.runtime.policy import Observation, draft_due

TOKENS_PER_S = 8  # five quick words of English a second, at 1.3 to 1.6 tokens each; ordinary speech has half of it


@dataclass(slots=True)
class Partials:
    """The drafts of one utterance after another. ``shown`` is the text that the caller knows of the present one."""

    rate: int
    chunk_samples: int
    shown: str = ""
    _stable: int = 0
    _end: int = 0  # of the sound that the last draft knew, in samples
    _voice: tuple[int, int] = (0, 0)  # from the first sounding sample after that to the last
    _cost_ms: float = 0.0

    def open(self, at_sample: int) -> None:
        """Begin an utterance. What a draft costs is known from the one before."""
        self.shown, self._stable, self._end, self._voice = "", 0, at_sample, (at_sample, at_sample)

    def hear(self, start_sample: int, end_sample: int) -> None:
        """Take note of where the Gate heard something."""
        start, end = self._voice
        self._voice = (start if end > self._end else start_sample, end_sample)

    def due(self, end_sample: int, lag_ms: float) -> bool:
        """Say whether to write a draft of the sound up to ``end_sample``; see ``policy.draft_due``."""
        start, end = self._voice
        observation = Observation(sounding=start < end_sample and self._end < end, lag_ms=lag_ms)
        return draft_due(observation, self._ms(self.chunk_samples), self._ms(end_sample - self._end), self._cost_ms)

    def max_steps(self, end_sample: int) -> int:
        """Return how many tokens a draft up to ``end_sample`` may add: as many as anybody says in that time."""
        return math.ceil(TOKENS_PER_S * (end_sample - self._end) / self.rate)

    def write(self, text: str, end_sample: int, cost_ms: float) -> int | None:
        """Take a new draft; return how many of its first characters the last one had too, None if nothing changed."""
        stable = agreed(self.shown, text)
        changed = (text, stable) != (self.shown, self._stable)
        self.shown, self._stable, self._end, self._cost_ms = text, stable, end_sample, cost_ms
        return stable if changed else None

    def _ms(self, samples: int) -> float:
        return samples * 1000 / self.rate
