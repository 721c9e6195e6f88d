"""Timestamps: tokens that are times in an answer: where they may stand, and what they say of its text.

Whisper writes ``<|0.00|> words <|3.20|><|3.20|> words ...``: each segment between two times. Source of the rules:
Radford et al. 2022 (arXiv:2212.04356), section 2.3 and Whisper's decoding.py, ApplyTimestampRules; of where the next
window begins: transcribe.py. Knows tokens and logits; nothing of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.bundle import Timestamps
from edgekit.runtime.answer.sampler import Sampler, log_sum
from edgekit.runtime.engine import Array


@dataclass(frozen=True, slots=True)
class TextSpan:
    """Text tokens ``start`` to ``stop`` of an answer, times not counted, and when they were said, in seconds.

    ``closed``: whether the model wrote where they end.
    """

    start: int
    stop: int
    start_s: float
    end_s: float
    closed: bool = True


def spans(tokens: Sequence[int], timestamps: Timestamps, heard_s: float) -> list[TextSpan]:
    """Return the segments of an answer with times, in order; text after the last time ends at ``heard_s``."""
    found: list[TextSpan] = []
    count = began = 0  # text tokens so far, and before this segment
    at = start_s = 0.0
    for token in tokens:
        if (time_s := seconds(token, timestamps)) is None:
            if count == began:
                start_s = at
            count += 1
            continue
        at = min(max(at, time_s), heard_s)
        if count > began:
            found.append(TextSpan(began, count, start_s, at))
            began = count
    if count > began:
        found.append(TextSpan(began, count, start_s, heard_s, closed=False))
    return found


def seconds(token: int, timestamps: Timestamps) -> float | None:
    """Return the time that a token is, None for any other token."""
    place = token - timestamps.first
    return place * timestamps.step_s if 0 <= place < timestamps.count else None


class TimedSampler:
    """Another sampler's choice among the tokens that may come next in an answer with times.

    ``never``: tokens that may not: those that say that there are no times, and those that the other one forbids.
    """

    def __init__(self, chosen: Sampler, timestamps: Timestamps, stop: Sequence[int], never: Sequence[int]) -> None:
        self._chosen, self._times = chosen, timestamps
        self._stop, self._never = list(stop), sorted({*never} - {*stop})

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler. ``said``: with its times."""
        first, end = self._times.first, self._times.first + self._times.count
        masked = np.array(logits, np.float32)
        masked[self._never] = -np.inf
        if not said:  # an answer begins with a time
            masked[:first] = masked[first + self._times.latest_start + 1 :] = -np.inf
            return self._chosen.pick(masked, said)
        latest = max((token for token in said if first <= token < end), default=first - 1)
        is_time, was_time = (first <= token < end for token in ((first, *said)[-1], (first, *said)[-2]))
        closed = is_time and not was_time
        if closed:  # the next segment begins, or the answer ends
            stops = masked[self._stop]
            masked[:first] = masked[end:] = -np.inf
            masked[self._stop] = stops
        elif is_time:  # text follows
            masked[first:end] = -np.inf
        masked[first : latest + (not closed)] = -np.inf  # never backwards, and no segment is empty
        if log_sum(masked[first:end]) > max(masked[:first].max(), masked[end:].max(initial=-np.inf)):
            masked[:first] = masked[end:] = -np.inf
        return self._chosen.pick(masked, said)

    def mark(self) -> object:
        """Return where the draws stand."""
        return self._chosen.mark()

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the sampler's own
        """Draw again what was drawn since the mark."""
        self._chosen.back(mark)


class BegunSampler:
    """Another sampler's choices in an answer with times whose text is to begin with ``begun``.

    Times stand between those tokens as the other one chooses; the answer does not end before them.
    """

    def __init__(self, chosen: Sampler, timestamps: Timestamps, stop: Sequence[int], begun: Sequence[int]) -> None:
        self._chosen, self._times, self._stop, self._begun = chosen, timestamps, list(stop), begun

    def pick(self, logits: Array, said: Sequence[int]) -> int:
        """Return a token; see Sampler. ``said``: with its times."""
        written = sum(seconds(token, self._times) is None for token in said)
        if written >= len(self._begun):
            return self._chosen.pick(logits, said)
        going_on = np.array(logits, np.float32)
        going_on[self._stop] = -np.inf
        token = self._chosen.pick(going_on, said)
        return self._begun[written] if seconds(token, self._times) is None else token

    def mark(self) -> object:
        """Return where the draws stand."""
        return self._chosen.mark()

    def back(self, mark: Any) -> None:  # noqa: ANN401 - the sampler's own
        """Draw again what was drawn since the mark."""
        self._chosen.back(mark)
