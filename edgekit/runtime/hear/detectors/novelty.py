"""Novelty: how far sound rises over what has been normal lately, for doorbells, glass and machines.

Knows band energies and a floor that follows them quickly down and slowly up: a machine that starts is news, and normal
some seconds later. Knows nothing of what a sound is. Thresholds and durations are the Gate's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.hear.features import mel_filters

_BANDS = 12
_WINDOW_S = 0.032
_LOUDEST = 2  # bands averaged: a pure tone lies in two neighbouring triangles
_RISE_S, _FALL_S, _SMOOTH_S = 1.5, 0.25, 0.08
_QUIET_DB = -60.0  # the floor of a stream's first moment: what is louder is news
_DEAD_DB = -80.0  # below this, dither and rounding: no level under it is news


class Novelty:
    """A Detector of change. Scores are decibels over the floor; ``start`` 9 and ``stop`` 5 are sensible for the Gate.

    The first moment of a stream counts as news if it is louder than -60 dBFS in some band: a clip that begins with
    its sound is not missed. ``rate``: of the samples, in Hz.
    """

    def __init__(self, rate: int) -> None:
        self.window_samples = round(_WINDOW_S * rate)
        seconds = self.window_samples / rate
        self._rise, self._fall, self._smooth = (
            1.0 - math.exp(-seconds / time) for time in (_RISE_S, _FALL_S, _SMOOTH_S)
        )
        hann = 0.5 - 0.5 * np.cos(np.arange(self.window_samples) * (2 * np.pi / self.window_samples))
        self._hann = hann.astype(np.float32)
        filters = mel_filters(_BANDS, self.window_samples, rate)
        # Power of a full-scale sine in the middle of a band is 1.
        self._filters = filters / filters.max(axis=1, keepdims=True) * np.float32((4 / self.window_samples) ** 2)
        self.reset()

    def reset(self) -> None:
        """Forget everything heard."""
        self._power = np.zeros(_BANDS)
        self._floor = np.full(_BANDS, _QUIET_DB)

    def score(self, window: NDArray[np.float32]) -> float:
        """Return decibels over the floor in the bands that rose most; ``window``: (window_samples,) in [-1, 1]."""
        spectrum = np.fft.rfft(window * self._hann)
        power = self._filters @ (spectrum.real**2 + spectrum.imag**2)
        self._power += self._smooth * (power - self._power)
        level = 10.0 * np.log10(self._power + 10.0 ** (_DEAD_DB / 10.0))
        change = level - self._floor
        self._floor += np.where(change > 0.0, self._rise, self._fall) * change
        return float(np.sort(change)[-_LOUDEST:].mean())
