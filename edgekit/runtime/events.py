"""What a Stream emits, as plain data. Times are seconds of audio since the first pushed sample."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The Gate opened; ``at_s`` is where the sound began, pre-roll included."""

    at_s: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The Gate closed; ``at_s`` is the last sample that counted, ``decided_at_s`` when that became known."""

    at_s: float
    decided_at_s: float


@dataclass(frozen=True, slots=True)
class Text:
    """Text of one utterance so far (``final`` False) or whole (``final`` True), with the bounds of what it is about.

    Each one replaces the one before. While the user talks a text is a draft, which the next may revise; ``stable`` is
    the number of its first characters that the draft before had too, so they will probably stay. After the end of
    speech ``stable`` is the whole length, and only the end may still go: a repeat. Source: local agreement of two,
    Machacek et al. 2023, Turning Whisper into Real-Time Transcription System (arXiv:2307.14743).
    """

    text: str
    final: bool
    start_s: float
    end_s: float
    tokens: tuple[int, ...] = ()
    stable: int = 0


@dataclass(frozen=True, slots=True)
class Thought:
    """What the model thinks before it answers, so far or whole (``final``); each one replaces the one before."""

    text: str
    final: bool
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A piece of the spoken answer, to be played right after the one before. samples: (n,) float32 in [-1, 1]."""

    samples: NDArray[np.float32]
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class AudioCut:
    """The answer's speech was cut short: ``frames``, it is the longest there is; ``context``, the KV cache is full."""

    reason: Literal["frames", "context"]
    at_s: float


@dataclass(frozen=True, slots=True)
class LevelChanged:
    """The Policy chose another ComputeLevel."""

    level: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Forgot:
    """The context was full: the oldest ``turns`` of the conversation are not remembered any more."""

    turns: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Lag:
    """The caller fell behind and dropped samples before they reached the Stream."""

    dropped_samples: int
    at_s: float


Event = SpeechStarted | SpeechStopped | Thought | Text | Audio | AudioCut | LevelChanged | Forgot | Lag
