"""Detectors: what tells sound that counts from the rest, window by window, at the rate of any stream.

Knows which detector each kind of gate has. Thresholds and durations are the Gate's.
"""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.manifest import GateSettings
from edgekit.runtime.hear.detectors.novelty import Novelty
from edgekit.runtime.hear.detectors.vad import Silero

Samples = NDArray[np.float32]

_CROSSINGS = 16  # zeros of the filter on either side: it delays by so many samples of the lower rate


class Detector(Protocol):
    """Scores windows of sound in the order they come."""

    @property
    def window_samples(self) -> int:
        """Samples of one window."""
        ...

    def score(self, window: Samples) -> float:
        """Return how much the next window, (window_samples,) float32, counts; more is surer."""
        ...

    def reset(self) -> None:
        """Forget everything heard."""
        ...


class AlwaysOn:
    """Detector of the gate kind ``off``: every window counts."""

    window_samples = 512

    def score(self, window: Samples) -> float:
        """Return 1.0 for any window."""
        del window
        return 1.0

    def reset(self) -> None:
        """Do nothing: there is nothing to forget."""


class Resampled:
    """A Detector at ``rate``, made of one that hears ``detector_rate``.

    A window of the stream becomes exactly one window of the detector: the Gate's account of samples stays exact, and a
    score is of the window that it is given for. Where the rates have no such windows, the detector's is missed by at
    most half a sample a window, which no voice detector hears. The Resampler of streams would not do: its library hands
    sound out in bursts, a tenth of a second late where the rate is low.
    """

    def __init__(self, detector: Detector, detector_rate: int, rate: int) -> None:
        """Design the filter: a sinc under a Hann window, cut off at half of the lower rate."""
        self._detector = detector
        self.window_samples = max(1, round(detector.window_samples * rate / detector_rate))
        step = self.window_samples / detector.window_samples
        reach = math.ceil(_CROSSINGS * max(1.0, step))
        places = np.arange(detector.window_samples) * step
        first, taps = np.floor(places).astype(np.int64), np.arange(2 * reach)
        distance = (places - first)[:, None] + (reach - 1) - taps
        hann = np.cos(np.clip(distance / reach, -1.0, 1.0) * (np.pi / 2)) ** 2
        weights = np.sinc(distance / max(1.0, step)) * hann
        self._weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        self._index = first[:, None] + taps
        self._sound = np.zeros(2 * reach + self.window_samples, np.float32)

    def score(self, window: Samples) -> float:
        """Return the detector's score of the next window, (window_samples,) float32."""
        self._sound[: -self.window_samples] = self._sound[self.window_samples :]
        self._sound[-self.window_samples :] = window
        return self._detector.score(np.einsum("nt,nt->n", self._sound[self._index], self._weights))

    def reset(self) -> None:
        """Forget everything heard."""
        self._sound[:] = 0.0
        self._detector.reset()


def make_detector(settings: GateSettings, rate: int) -> Detector:
    """Return a new Detector for a gate's kind, for sound at ``rate`` Hz."""
    if settings.kind == "off":
        return AlwaysOn()
    if settings.kind == "sound":
        return Novelty(rate)
    silero = Silero()
    return silero if rate == silero.sample_rate_hz else Resampled(silero, silero.sample_rate_hz, rate)
