"""Reference: the sound that was given to the loudspeaker, frame by frame beside the microphone's. Knows two clocks."""

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.audio.ring import Ring

Samples = NDArray[np.float32]

_CROSSINGS = 8  # zeros of the interpolating sinc on either side: half a millisecond at 16 kHz
_PHASES = 256  # places between two samples: the nearest one is 50 dB and more from a wrong one
_LEAD_S = (
    0.005  # of what was played, waiting for its frame, where the least of it waits; more would eat the echo's delay
)
_LOST_S = 0.02  # more than that no clock drifts between two looks: samples were lost, and the pairing starts again
_LOOK_FRAMES = 200  # two seconds of frames between two looks: every burst of either device has shown
_LOOKS = 60  # the drift is a line through the last two minutes' ...
_FEWEST_LOOKS = 15  # ... or through half a minute's, for which a millisecond of uncertainty is no more than the drift
_MOST_DRIFT = 500e-6
_EASE_S = 60.0  # in which the lead comes back to _LEAD_S, by at most _MOST_EASE
_MOST_EASE = 20e-6


class Reference:
    """Reads frames of what was played at the microphone's rate, ``rate_out``; ``ring`` holds it at ``rate``.

    One frame is read for each of the microphone's. The two devices call back in bursts and have clocks of their own,
    some 50 millionths apart: how far they drift is seen at what waits at the least, and what was played is stretched by
    as much, so that a filter that follows the echo finds it where it was. What is not there in time is silence.
    """

    def __init__(self, ring: Ring, rate: int, rate_out: int) -> None:
        self._ring, self._rate, self._step = ring, rate, rate / rate_out
        self._reach = math.ceil(_CROSSINGS * max(1.0, self._step))
        self._weights = _weights(self._reach, max(1.0, self._step))
        self._sound: Samples = np.zeros(2 * self._reach + round(_LEAD_S * rate), np.float32)
        self._at = float(self._reach)  # of the next sample, in ``_sound``
        self._seconds = 0.0  # of frames read
        self._frames = 0
        self._least = self._lead = math.inf  # seconds since the last look: given without drift, and waiting
        self._looks: deque[tuple[float, float]] = deque(maxlen=_LOOKS)
        self.stretch = 1.0

    def frame(self, samples: int, behind_s: float = 0.0) -> Samples:
        """Return the next frame, (samples,) float32. ``behind_s``: of the microphone's sound that waits behind it."""
        if not self._frames:  # what was played before the microphone began
            before_s = self._ring.available_samples / self._rate - behind_s - samples * self._step / self._rate
            self._ring.read(max(0, round(before_s * self._rate)))
        places = self._at + np.arange(samples) * (self._step * self.stretch)
        self._take(int(places[-1]) + self._reach + 2 - len(self._sound))
        sound = self._interpolated(places)
        self._skip(samples * self._step * self.stretch)
        self._seconds += samples * self._step / self._rate
        self._look(behind_s)
        return sound

    def _take(self, count: int) -> None:
        if count > 0:
            taken = self._ring.read(count)
            self._sound = np.concatenate([self._sound, taken, np.zeros(count - len(taken), np.float32)])

    def _skip(self, samples: float) -> None:
        self._at += samples
        past = int(self._at) - self._reach
        self._sound, self._at = self._sound[past:], self._at - past

    def _interpolated(self, places: NDArray[np.floating[Any]]) -> Samples:
        if not self._sound.any():
            return np.zeros(len(places), np.float32)
        first = np.floor(places).astype(np.int64)
        phase = np.rint((places - first) * _PHASES).astype(np.int64)
        index = first[:, None] + np.arange(1 - self._reach, self._reach + 1)
        return np.asarray(np.einsum("nt,nt->n", self._sound[index], self._weights[phase]), np.float32)

    def _look(self, behind_s: float) -> None:
        """See now and then how the clocks run, and how much waits at the least."""
        given_s = (self._ring.written_samples / self._rate) - self._seconds - behind_s
        ahead = len(self._sound) - self._at - self._reach + self._ring.available_samples
        self._least, self._lead = min(self._least, given_s), min(self._lead, ahead / self._rate - behind_s)
        self._frames += 1
        if self._frames % _LOOK_FRAMES:
            return
        excess_s = self._lead - _LEAD_S
        self._looks.append((self._seconds, self._least))
        self._least = self._lead = math.inf
        if excess_s > _LOST_S:
            excess = excess_s * self._rate
            self._take(math.ceil(self._at + excess + self._reach) - len(self._sound))
            self._skip(excess)
            self._looks.clear()
        elif len(self._looks) >= _FEWEST_LOOKS:
            times, offsets = np.array(self._looks).T
            times -= times.mean()
            slope = float(times @ offsets / (times @ times))
            ease = min(_MOST_EASE, max(-_MOST_EASE, excess_s / _EASE_S))
            self.stretch = 1.0 + min(_MOST_DRIFT, max(-_MOST_DRIFT, slope)) + ease


def _weights(reach: int, width: float) -> Samples:
    """Return a sinc under a Hann window at every phase, (phases + 1, 2 reach) float32."""
    distance = np.linspace(0, 1, _PHASES + 1)[:, None] - np.arange(1 - reach, reach + 1)
    weights = np.sinc(distance / width) * np.cos(np.clip(distance / reach, -1.0, 1.0) * (np.pi / 2)) ** 2
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
