"""Pace: play a recording in real time, so that a file behaves like a microphone.

Knows files and a clock; knows nothing of streams.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgekit.runtime.audio.files import Block, blocks
from edgekit.timing import Clock

CHUNK_S = 0.02
_READ_S = 1.0


def chunks(source: Path | BinaryIO, seconds: float = CHUNK_S) -> Iterator[Block]:
    """Yield a file in pieces of ``seconds``, the last one shorter; errors as ``audio.blocks``."""
    for block in blocks(source, _READ_S):
        size = max(1, round(seconds * block.sample_rate_hz))
        for start in range(0, len(block.samples), size):
            yield Block(block.samples[start : start + size], block.sample_rate_hz)


def paced(
    source: Path | BinaryIO, clock: Clock = time.perf_counter, sleep: Callable[[float], object] = time.sleep
) -> Iterator[tuple[Block, float]]:
    """Yield the chunks of a file, each at the time when a microphone would have recorded its last sample.

    Beside each chunk stands how late it is in ms: 0 for a consumer that keeps up.
    """
    begin, played = clock(), 0
    for chunk in chunks(source):
        played += len(chunk.samples)
        wait = begin + played / chunk.sample_rate_hz - clock()
        if wait > 0:
            sleep(wait)
        yield chunk, max(0.0, -wait) * 1000
