"""Vocoder: log-mel in, sound out, piece by piece. Knows what must overlap between pieces; knows nothing of codes.

The graph looks a little ahead and behind, so the last frames of a piece are made sound twice: once as its end, which is
held back, and again as the beginning of the next, and the two are cross-faded. Source: stepfun-ai/Step-Audio2,
token2wav.py.
"""

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.engine import Engine

Samples = NDArray[np.float32]
HELD_FRAMES = 8
_NOTHING = np.zeros(0, np.float32)


class Vocoder:
    """One stream's vocoder; it draws the same noise for every reply. ``seed``: of that noise."""

    def __init__(self, engine: Engine, samples_per_frame: int, seed: int = 0) -> None:
        shapes = {spec.name: spec.shape for spec in engine.component.inputs}
        self._bins, self._harmonics = int(shapes["mel"][1]), int(shapes["noise"][1])
        self._call = engine.bind({})
        self._samples_per_frame = samples_per_frame
        self._held_samples = HELD_FRAMES * samples_per_frame
        # Hamming's halves add up to 1.08, not to 1: the voice is a little louder where it is faded, as published.
        self._window = np.hamming(2 * self._held_samples)
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget the reply so far."""
        self._noise = np.random.default_rng(self._seed)
        self._mel = np.zeros((0, self._bins), np.float32)
        self._source = self._held = _NOTHING

    def push(self, mel: NDArray[np.float32], *, last: bool) -> Samples:
        """Return the samples, (n,) float32 in [-1, 1], that new ``mel`` (frames, bins) completes.

        The end of a piece is held back until more comes, and a beginning of fewer than HELD_FRAMES frames as a whole;
        ``last`` gives out everything and starts afresh.
        """
        assert mel.ndim == 2, mel.shape
        assert mel.shape[1] == self._bins, mel.shape
        frames = np.concatenate([self._mel, mel.astype(np.float32, copy=False)])
        begun = self._held.size > 0
        if not last and (not len(mel) or len(frames) < HELD_FRAMES):
            self._mel = frames
            return _NOTHING
        samples, source = self._held, _NOTHING
        if len(mel) or not begun:
            samples, source = self._run(frames)
        if last:
            self.reset()
            return _in_range(samples)
        self._mel, self._source = frames[-HELD_FRAMES:], source[-self._held_samples :].copy()
        self._held = samples[-self._held_samples :].copy()
        return _in_range(samples[: -self._held_samples])

    def _run(self, frames: NDArray[np.float32]) -> tuple[Samples, Samples]:
        """Return samples and source of frames, the samples faded in over those held back."""
        count = len(frames) * self._samples_per_frame
        if count == 0:
            return _NOTHING, _NOTHING
        noise = self._noise.standard_normal((count - self._source.size, self._harmonics), np.float32)
        out = self._call.run({"mel": frames, "kept": self._source, "noise": noise})
        samples: Samples = out["samples"]
        if overlap := self._held.size:
            faded = samples[:overlap] * self._window[:overlap] + self._held * self._window[overlap:]
            samples = np.concatenate([faded.astype(np.float32), samples[overlap:]])
        return samples, out["source"]


def _in_range(samples: Samples) -> Samples:
    return np.clip(samples, np.float32(-1.0), np.float32(1.0))
