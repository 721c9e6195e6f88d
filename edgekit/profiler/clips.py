"""Clips: what a measurement listens to, cut so that the last speech sample is known.

Works on mono float32 of any rate; knows nothing of gates or models, so that no gate can judge itself.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import AudioError
from edgekit.profiler.pacing import block_samples
from edgekit.profiler.profiles import ClipFacts
from edgekit.runtime.audio.files import read_mono, shown

Samples = NDArray[np.float32]
SPEECH_RANGE_DB = 30.0
NOISE_DB = -70.0
_FLOOR = 1e-10
_PAUSE_BLOCKS = 10  # 0.2 s: shorter than any end of speech, so that joined speech stays one utterance


@dataclass(frozen=True, slots=True)
class Clip:
    """A named recording: samples (n,) at ``rate_hz``, and the number of them up to the last speech sample."""

    name: str
    samples: Samples
    speech_samples: int
    rate_hz: int

    @property
    def speech_end_s(self) -> float:
        """Stream time of the last speech sample."""
        return self.speech_samples / self.rate_hz

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate_hz

    def facts(self) -> ClipFacts:
        """Return what a Profile says about this clip."""
        return ClipFacts(
            name=self.name,
            sha256=hashlib.sha256(self.samples.tobytes()).hexdigest(),
            seconds=round(self.seconds, 4),
            speech_end_s=round(self.speech_end_s, 4),
        )

    def speech(self, silence_after_s: float = 0.0) -> Samples:
        """Return the clip up to its last speech sample, followed by digital silence."""
        silence = np.zeros(round(silence_after_s * self.rate_hz), np.float32)
        return np.concatenate((self.samples[: self.speech_samples], silence))


def read_clip(path: str | os.PathLike[str], rate_hz: int) -> Clip:
    """Return the Clip in an audio file, mixed down and resampled to ``rate_hz``: what the bundle's front end hears.

    Raises AudioError for one without sound.
    """
    return make_clip(shown(Path(path).name), read_mono(Path(path), rate_hz), rate_hz)


def make_clip(name: str, samples: Samples, rate_hz: int) -> Clip:
    """Return a Clip of samples (n,); raises AudioError if there is nothing but silence."""
    loud = speech_blocks(samples, rate_hz)
    if not loud.any():
        raise AudioError(f"{name}: nothing but silence, a clip to measure with must hold speech; choose another")
    last = int(np.flatnonzero(loud)[-1]) + 1
    return Clip(name, samples, min(len(samples), last * block_samples(rate_hz)), rate_hz)


def speech_blocks(samples: Samples, rate_hz: int) -> NDArray[np.bool_]:
    """Return for each 20 ms of samples (n,) whether its level is within 30 dB of the loudest one's."""
    size = block_samples(rate_hz)
    blocks = -(-len(samples) // size)
    padded = np.zeros(blocks * size, np.float64)
    padded[: len(samples)] = samples
    power = (padded.reshape(blocks, size) ** 2).mean(axis=1)
    threshold = max(power.max(initial=0.0) * 10 ** (-SPEECH_RANGE_DB / 10), _FLOOR)
    return np.asarray(power >= threshold)


def join_speech(clips: Sequence[Clip], seconds: float) -> Clip:
    """Return one utterance of exactly ``seconds``: clips of one rate in a row, again from the first where they run out.

    Silence at the ends is cut and every pause shortened to 0.2 s, which no gate takes for the end; the last block is a
    speech block, so the utterance ends in speech.
    """
    rate_hz, size = clips[0].rate_hz, block_samples(clips[0].rate_hz)
    assert all(clip.rate_hz == rate_hz for clip in clips), "clips of several rates"
    pieces = [_without_pauses(clip.samples, rate_hz) for clip in clips]
    count = round(seconds * rate_hz)
    laps = -(-count // sum(len(piece) for piece in pieces))
    joined = np.concatenate(pieces * (laps + 1))
    loud = np.flatnonzero(speech_blocks(joined, rate_hz))
    needed = -(-count // size)
    end = int(loud[np.searchsorted(loud, needed - 1)] + 1) * size
    return Clip(f"joined-{seconds:g}s", np.ascontiguousarray(joined[end - count : end]), count, rate_hz)


def faint_noise(seconds: float, rate_hz: int, seed: int = 0) -> Samples:
    """Return white noise at -70 dB of full scale: what a quiet room's microphone hears, roughly."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    return (noise * 10 ** (NOISE_DB / 20)).astype(np.float32)


def _without_pauses(samples: Samples, rate_hz: int) -> Samples:
    loud = speech_blocks(samples, rate_hz)
    quiet = 0
    keep = np.zeros(len(loud), np.bool_)
    spoken = np.flatnonzero(loud)
    for index in range(int(spoken[0]), int(spoken[-1]) + 1):
        quiet = 0 if loud[index] else quiet + 1
        keep[index] = quiet <= _PAUSE_BLOCKS
    return samples[np.repeat(keep, block_samples(rate_hz))[: len(samples)]]
