"""Watch: whether what a microphone sends is sound. Told of blocks and of the time; owns no clock, thread or device.

What a microphone hears is never exact: noise moves its last bits. So the same sound twice, or a value that stands
still, is a driver that hands out a dead buffer. Zeros are another thing: a muted microphone sends them, and good ones
send nothing else in a quiet room.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Kind = Literal["silent", "constant", "repeated", "clock", "pace"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may pass by itself is borne, in seconds: a fault is noticed within three."""

    silent_s: float = 2.5  # without a block; a server that is short of time makes pauses of a second
    first_s: float = 4.0  # before the first block: a PulseAudio monitor took 2 s until its buffer was made shorter
    stuck_s: float = 2.0  # of the same sound or the same value: no room and no speaker does that
    stale_s: float = 0.5  # of the same: too short to be a fault, enough not to count as sound
    clock_s: float = 2.0  # of blocks by a device whose own clock stands still
    pace_s: float = 2.0  # over which the pace is taken: bursts of some 100 ms change it by less than a fifth
    settling_s: float = 0.5  # after the first block, which may bring a backlog
    slowest: float = 0.6  # of the pace that the rate says: between the nearest two that a driver takes for each other,
    fastest: float = 1.6  # 8 for 16 kHz or the reverse, and what lateness of our own makes of it
    paused_s: float = 1.5  # between two looks: it was us who did not run, and nothing can be held against the device
    muted_s: float = 30.0  # of zeros: a pause to think is shorter
    well_s: float = 2.5  # of sound, more than any fault takes to be noticed


PATIENCE = Patience()
_STILL = 2 / 32_768  # a constant offset and the dither of 16 bits
_LONGEST_REPEAT_S = 1.0  # no driver's buffer is longer
_PATTERN = 64  # samples that come again only if all does
_TONE_BINS = 2  # of a period's spectrum: a test tone without noise comes again bit for bit, and is sound
_TONE_SHARE = 0.999


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a device, in words that fit behind its name."""

    kind: Kind
    text: str


class Watch:
    """One device from when it was opened. ``took`` every block, ``look`` several times a second; times are monotonic.

    ``fresh_s``: when sound last came that was no repetition. ``zeros_s``: how much of the latest sound was still.
    """

    def __init__(self, rate_hz: int, opened_s: float, patience: Patience = PATIENCE) -> None:
        self._rate, self._patience = rate_hz, patience
        self._opened_s = self._looked_s = opened_s
        self._last_s: float | None = None  # the last block's
        self._first_s = 0.0
        self._device_s = 0.0
        self._device_since_s = 0.0
        self._frames = 0
        self._paces: deque[tuple[float, int]] = deque()  # when, and how many samples were there by then
        self._sound: deque[Samples] = deque()
        self._held = 0  # samples in it
        self._zeros = 0
        self._well = 0  # samples since nothing was amiss
        self._new = False  # a block since the last look
        self.fresh_s: float | None = None

    @property
    def zeros_s(self) -> float:
        """Seconds of zeros, or of an offset that stands still, up to now."""
        return self._zeros / self._rate

    @property
    def muted(self) -> bool:
        """Whether nothing but zeros came for long."""
        return self.zeros_s >= self._patience.muted_s

    @property
    def well(self) -> bool:
        """Whether sound has come for longer than any fault takes to be noticed."""
        return self._well >= self._patience.well_s * self._rate

    def took(self, at_s: float, samples: Samples, device_s: float = 0.0, *, lost: bool = False) -> None:
        """Take a block of one channel that arrived at ``at_s``, (n,) float32.

        device_s: when the device says that it began; 0 where it does not say. lost: samples were lost before it.
        """
        if not samples.size:
            return
        if self._last_s is None:
            self._first_s = at_s
        self._last_s, self._new = at_s, True
        if device_s != self._device_s:
            self._device_s, self._device_since_s = device_s, at_s
        self._frames += samples.size
        self._well += samples.size
        if lost:
            self._paces.clear()
        if at_s - self._first_s >= self._patience.settling_s:
            self._paces.append((at_s, self._frames))
            while len(self._paces) > 2 and at_s - self._paces[1][0] >= self._patience.pace_s:
                self._paces.popleft()
        still = bool((samples == samples[0]).all()) and abs(float(samples[0])) <= _STILL
        self._zeros = self._zeros + samples.size if still else 0
        self._hold(samples)

    def look(self, now_s: float) -> Fault | None:
        """Return what is wrong by now, if anything is."""
        waited, self._looked_s = now_s - self._looked_s, now_s
        if waited > self._patience.paused_s:
            self._forgive(now_s)
            return None
        fault = self._silence(now_s) or self._content() or self._clock() or self._pace()
        if fault is not None:
            self._well = 0
        return fault

    def _forgive(self, now_s: float) -> None:
        self._opened_s = now_s
        self._paces.clear()
        self._device_since_s = now_s
        if self._last_s is not None:
            self._last_s = self._first_s = now_s

    def _silence(self, now_s: float) -> Fault | None:
        since_s, limit_s = self._last_s, self._patience.silent_s
        if since_s is None:
            since_s, limit_s = self._opened_s, self._patience.first_s
        if now_s - since_s < limit_s:
            return None
        return Fault("silent", f"no sound for {now_s - since_s:.1f} s, not even silence")

    def _content(self) -> Fault | None:
        if not self._new:
            return None
        self._new = False
        stuck, period = self._stuck()
        if stuck < self._patience.stale_s * self._rate:
            self.fresh_s = self._last_s
            return None
        self._well = 0
        if stuck < self._patience.stuck_s * self._rate:
            return None
        seconds = f"for {stuck / self._rate:.1f} s"
        if period == 1:
            return Fault("constant", f"the same value {self._sound[-1][-1]:.4f} {seconds}: no room is as still as that")
        return Fault("repeated", f"the same {period * 1000 / self._rate:.0f} ms again and again {seconds}")

    def _stuck(self) -> tuple[int, int]:
        """Return for how many samples the latest sound has repeated, and what number of samples; 0 if it has not."""
        sound = np.concatenate([np.zeros(0, np.float32), *self._sound])
        if len(sound) <= _PATTERN:
            return 0, 0
        period = _since_the_same(sound)
        if not period:
            return 0, 0
        differing = np.flatnonzero(sound[period:] != sound[:-period])
        start = int(differing[-1]) + 1 if differing.size else 0
        repeated = sound[start:]
        if np.abs(repeated).max() <= _STILL or (period > 1 and _is_tone(repeated[:period])):
            return 0, 0
        return len(repeated), period

    def _clock(self) -> Fault | None:
        stands_s = (self._last_s or 0.0) - self._device_since_s
        if self._device_s == 0.0 or stands_s < self._patience.clock_s:
            return None
        return Fault("clock", f"its clock has stood still for {stands_s:.1f} s while sound came")

    def _pace(self) -> Fault | None:
        if len(self._paces) < 2:
            return None
        (start_s, before), (end_s, after) = self._paces[0], self._paces[-1]
        if end_s - start_s < self._patience.pace_s:
            return None
        pace = (after - before) / (end_s - start_s)
        if self._patience.slowest <= pace / self._rate <= self._patience.fastest:
            return None
        return Fault("pace", f"{pace:.0f} samples a second came, {self._rate} are its rate")

    def _hold(self, samples: Samples) -> None:
        self._sound.append(samples)
        self._held += samples.size
        limit = round((self._patience.stuck_s + _LONGEST_REPEAT_S) * self._rate)
        while self._held - self._sound[0].size >= limit:
            self._held -= self._sound.popleft().size


def _since_the_same(sound: Samples) -> int:
    """Return how many samples ago the latest ones came before, exactly; 0 if they did not."""
    data = np.ascontiguousarray(sound, np.float32).tobytes()
    at = len(data) - 4 * _PATTERN
    pattern, before = data[at:], at
    while (before := data.rfind(pattern, 0, before + 4 * _PATTERN - 1)) >= 0:
        if before % 4 == 0:
            return (at - before) // 4
    return 0


def _is_tone(period: Samples) -> bool:
    powers = np.sort(np.abs(np.fft.rfft(period - period.mean())) ** 2)
    return bool(powers[-_TONE_BINS:].sum() >= _TONE_SHARE * powers.sum())
