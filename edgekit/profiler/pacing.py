"""Hand over samples the way a microphone does: each block when its last sample exists, on an absolute clock."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.timing import Clock

BLOCK_MS = 20


def block_samples(rate_hz: int) -> int:
    """Return how many whole samples a block of 20 ms has."""
    return rate_hz * BLOCK_MS // 1000


@dataclass(frozen=True, slots=True)
class Block:
    """Samples (n,) float32; ``end_s`` is their end in stream time, ``due_s`` the clock's time at which they exist."""

    samples: NDArray[np.float32]
    end_s: float
    due_s: float


@dataclass(frozen=True, slots=True)
class Pacer:
    """Yields Blocks. ``paced`` False: each is due when it is asked for, so nothing is ever late."""

    clock: Clock
    sleep: Callable[[float], None] = time.sleep
    paced: bool = True

    def blocks(self, samples: NDArray[np.float32], origin_s: float, rate_hz: int) -> Iterator[Block]:
        """Yield all samples (n,) in blocks of 20 ms, the last perhaps shorter; ``origin_s`` is when sample 0 was due.

        Due times count from the origin, so one late block delays no other: a receiver that falls behind finds the
        backlog at once, as behind a microphone.
        """
        size = block_samples(rate_hz)
        for start in range(0, len(samples), size):
            block = samples[start : start + size]
            end_s = (start + len(block)) / rate_hz
            if not self.paced:
                yield Block(block, end_s, self.clock())
                continue
            due_s = origin_s + end_s
            while (wait_s := due_s - self.clock()) > 0:
                self.sleep(wait_s)
            yield Block(block, end_s, due_s)
