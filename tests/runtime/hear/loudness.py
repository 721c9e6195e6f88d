"""Recordings in two orders of loudness, longer than a block of Qwen3-Omni's ears, and what transformers makes of them.

``goldens/loudness.npz`` holds every STEP-th frame of its extractor's features, by order; ``python -m
tests.reference.loudness_golden`` writes it.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import FrontEnd, Grid
from edgekit.resources import resource
from edgekit.runtime.audio.files import read_mono

GOLDEN = Path(__file__).parent / "goldens" / "loudness.npz"
STEP = 16
RATE = 16_000
Order = Literal["loudest-first", "loudest-last"]
ORDERS: tuple[Order, ...] = ("loudest-first", "loudest-last")
OMNI = FrontEnd(mel_bins=128, floor="clip", edge="reflect", whole_hops=True)
BLOCKS = Grid(
    mode="exact", chunk_frames=800, max_frames=32_000, max_positions=104, left_frames=0, right_frames=0,
    frames_per_position=8, segment_frames=100,
)  # fmt: skip
_CLIPS = (("librivox-0870.flac", 1.0), ("librivox-0920.flac", 0.3), ("librivox-0930.flac", 0.1))


def in_order(order: Order) -> NDArray[np.float32]:
    """Return three sentences, each 10 dB from the next, (n,) float32 at RATE."""
    clips = [read_mono(resource("export") / "clips" / name, RATE) * np.float32(gain) for name, gain in _CLIPS]
    return np.concatenate(clips if order == "loudest-first" else clips[::-1])[:-37]
