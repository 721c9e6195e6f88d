"""Rehearsal: an answer that is said to be compared with what another says.

By the likeliest codes, or by the other's, so that only what each would have chosen next, and the sound of it, differ.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import TokenProtocol
from edgekit.runtime.answer.sampler import Greedy, Sampler, Teacher
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.engine import Array
from edgekit.runtime.speak.setting import SpeakerSetting


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What a bundle that speaks made of an answer.

    tokens: of the answer, those fed; codes: (frames, codebooks) int64, those fed; picked: per codebook the codes that
    the sampler would have taken, the talker's end of speech among its own; mel: (frames, bins) natural logarithms that
    a vocoder was given, pieces with what they share, none where nothing is; samples: (n,) in [-1, 1].
    """

    tokens: tuple[int, ...]
    codes: NDArray[np.int64]
    picked: tuple[NDArray[np.int64], ...]
    mel: Array
    samples: Array


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """What is to be said. ``tokens``: of an answer to what was heard; ``frames``: of codes, at most.

    ``forced``: what another said, whose codes are fed in place of one's own choice. ``answer`` yields the tokens of an
    answer that a sampler takes, while the speaker reads along.
    """

    setting: SpeakerSetting
    protocol: TokenProtocol
    tokens: tuple[int, ...]
    frames: int
    forced: Spoken | None
    answer: Callable[[Sampler, Speaker], Iterator[int]]

    def feed(self) -> Teacher:
        """Return a sampler that gives out the first of ``tokens``, one for each frame at most."""
        return Teacher(Greedy(self.protocol), self.tokens[: self.frames], self.protocol.stop[0])


def say_tokens(speaker: Speaker, rehearsal: Rehearsal) -> Spoken:
    """Let a speaker say the answer: what a way of speaking without codes is compared by is its sound alone."""
    said, samples = sounding(speaker, rehearsal.answer(rehearsal.feed(), speaker))
    return Spoken(
        tokens=tuple(said), codes=np.zeros((0, 0), np.int64), picked=(), mel=np.zeros((0, 0), np.float32),
        samples=samples,
    )  # fmt: skip


def sounding(speaker: Speaker, tokens: Iterator[int]) -> tuple[list[int], Array]:
    """Return the tokens that were said, and their samples."""
    said, pieces = [], [np.zeros(0, np.float32)]
    for token in tokens:
        said.append(token)
        pieces += [piece.copy() for piece in speaker.say(token) if piece is not None]
    pieces += [piece.copy() for piece in speaker.finish() if piece is not None]
    return said, np.concatenate(pieces)
