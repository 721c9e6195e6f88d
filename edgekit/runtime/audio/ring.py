"""Ring: samples from one producer thread to one consumer thread, bounded, the oldest dropped when the consumer is late.

Knows samples and counts, not devices. Why it is safe without a lock in the producer:

- Samples travel as blocks in a ``deque``. Its ``append`` and ``popleft`` are atomic in CPython (under the GIL, and by
  the deque's own lock in free-threaded builds), so a block is taken exactly once: by the consumer, who then counts it
  as processed, or by a producer short of room, who counts it as dropped.
- Each counter is written by one thread only and read by the other. A stale count of processed samples can only make the
  producer think that the ring is fuller than it is: it may drop one block early, never overfill or miscount.
- The wake-up is a ``threading.Lock`` that only the consumer acquires and only the producer releases; releasing never
  waits.

So ``written == processed + dropped + available`` once both are at rest, and nothing is counted twice.
"""

import threading
import time
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class Ring:
    """A bounded queue of float32 samples. ``write`` belongs to one thread; ``read`` and ``wait`` to one other.

    At most ``capacity_samples`` wait, beside the rest of the one block that the consumer has begun.
    """

    def __init__(self, capacity_samples: int) -> None:
        assert capacity_samples > 0
        self.capacity_samples = capacity_samples
        self.written_samples = self.dropped_samples = 0  # the producer's
        self.processed_samples = 0  # the consumer's
        self.closed = False
        self._blocks: deque[Samples] = deque()
        self._rest: Samples = np.zeros(0, np.float32)  # the consumer's
        self._wake = threading.Lock()
        self._wake.acquire()

    @property
    def available_samples(self) -> int:
        """Samples that wait to be read."""
        return self.written_samples - self.dropped_samples - self.processed_samples

    def write(self, samples: Samples) -> int:
        """Append a copy of ``samples``, (n,) float32, and return how many older ones that dropped. Never blocks."""
        dropped = max(0, samples.size - self.capacity_samples)
        block = np.array(samples[dropped:], np.float32)
        excess = self.available_samples + block.size - self.capacity_samples
        while excess > 0 and self._blocks:
            try:
                oldest = self._blocks.popleft()
            except IndexError:  # the consumer took the last one meanwhile
                break
            dropped += oldest.size
            excess -= oldest.size
        # In this order nobody sees a negative number of samples available.
        self.written_samples += samples.size
        self.dropped_samples += dropped
        if block.size:
            self._blocks.append(block)
        self._signal()
        return dropped

    def discard(self) -> int:
        """Drop what waits, but for the rest of the block that the consumer has begun; return how many samples.

        The producer's, and never blocks.
        """
        dropped = 0
        with suppress(IndexError):  # no block is left: all are taken, here or by the consumer
            while True:
                dropped += self._blocks.popleft().size
        self.dropped_samples += dropped
        return dropped

    def close(self) -> None:
        """Say that no more samples will come, which ends the consumer's ``wait``; the producer's, and never blocks."""
        self.closed = True
        self._signal()

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples, (n,) float32 with n <= ``max_samples``; empty if there are none. Never blocks."""
        parts, wanted = [], max_samples
        while wanted > 0:
            if not self._rest.size:
                try:
                    self._rest = self._blocks.popleft()
                except IndexError:
                    break
            parts.append(self._rest[:wanted])
            self._rest = self._rest[wanted:]
            wanted -= parts[-1].size
        if not parts:
            return np.zeros(0, np.float32)
        self.processed_samples += max_samples - wanted
        return np.concatenate(parts)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, the ring is closed or ``timeout_s`` passes; say whether samples are there."""
        end = time.monotonic() + timeout_s
        while not self.closed and not (self._rest.size or self._blocks):
            # A signal may be of samples that were read meanwhile: look again.
            if not self._wake.acquire(timeout=max(0.0, end - time.monotonic())):
                break
        return bool(self._rest.size or self._blocks)

    def _signal(self) -> None:
        if self._wake.locked():
            self._wake.release()
