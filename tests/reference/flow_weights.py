"""Seeded tensors and voices of any size for Step-Audio 2's flow. Needs numpy alone.

Every bias, norm and position is drawn too: defaults of 0 and 1 would hide swapped names. Numbers are made of integer
draws and float32 arithmetic, so the same come out everywhere and goldens need not store them.
"""

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.exporter.families.step_audio.conformer import ConformerShape
from edgekit.exporter.families.step_audio.dit import DitShape
from edgekit.exporter.families.step_audio.flow import Flow, FlowShape
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, Voice

Array = NDArray[np.float32]

# Small, yet no two sizes alike that a graph could mistake for each other.
TINY = FlowShape(
    ConformerShape(codes=97, width=64, heads=4, inner=96, layers=(2, 1), lookahead=3, key_bias=True),
    DitShape(mel_bins=16, speaker=24, width=48, layers=2, heads=2, head_dim=32, inner=80, time_width=40),
)
SAMPLE_RATE_HZ = 24_000


@dataclass(frozen=True)
class Arrays:
    """Arrays by name as a source of tensors."""

    arrays: dict[str, Array]

    def names(self) -> frozenset[str]:
        """Return the name of every tensor."""
        return frozenset(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        return self.arrays[name].shape

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Return rows [start, stop) of one tensor."""
        return self.arrays[name][start:stop]


def draw(shape: FlowShape, seed: int) -> Arrays:
    """Return every tensor of a flow, scaled so that what comes out is of the order 1."""
    return Arrays({name: _tensor(seed, name, size) for name, size in Flow(shape).expected().items()})


def digest(source: Arrays) -> str:
    """Return the SHA-256 of all tensors, which goldens carry to name the weights they were made with."""
    found = hashlib.sha256()
    for name in sorted(source.arrays):
        found.update(name.encode())
        found.update(np.ascontiguousarray(source.arrays[name]).data)
    return found.hexdigest()


def draw_voice(shape: FlowShape, codes: int, seed: int) -> Voice:
    """Return a voice prompt of ``codes`` codes."""
    return Voice(
        codes=draw_codes(shape, codes, seed),
        mel=_numbers(seed, "voice.mel", (FRAMES_PER_CODE * codes, shape.dit.mel_bins), 1.0, 0.0),
        speaker=_numbers(seed, "voice.speaker", (shape.dit.speaker,), 1.0, 0.0),
        sample_rate_hz=SAMPLE_RATE_HZ,
    )


def draw_codes(shape: FlowShape, count: int, seed: int) -> NDArray[np.int64]:
    """Return ``count`` speech codes."""
    return np.random.default_rng(seed).integers(0, shape.conformer.codes, count, dtype=np.int64)


def _tensor(seed: int, name: str, shape: tuple[int, ...]) -> Array:
    if name.endswith(".bias") or "pos_bias" in name:
        return _numbers(seed, name, shape, 0.2, 0.0)
    if len(shape) == 1:
        return _numbers(seed, name, shape, 0.3, 1.0)
    if "input_embedding" in name:
        return _numbers(seed, name, shape, 1.0, 0.0)
    return _numbers(seed, name, shape, float(np.prod(shape[1:])) ** -0.5, 0.0)


def _numbers(seed: int, name: str, shape: tuple[int, ...], deviation: float, mean: float) -> Array:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    steps = generator.integers(-(1 << 15), 1 << 15, size=shape, dtype=np.int32).astype(np.float32)
    return steps * np.float32(deviation * 3**0.5 / (1 << 15)) + np.float32(mean)
