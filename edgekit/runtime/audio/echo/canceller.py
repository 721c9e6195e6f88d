"""EchoCanceller: the microphone's sound without the loudspeaker's, and whether the rest may be somebody.

Knows samples and WebRTC's canceller (the ``pywebrtc-audio`` package), not devices; a Reference knows what was played.
"""

import logging
from collections import deque
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import MissingPackageError
from edgekit.runtime.audio.echo.reference import Reference
from edgekit.runtime.hear.gate import Played

Samples = NDArray[np.float32]

FRAMES_PER_S = 100  # the canceller's own frames: 10 ms
_TAIL_FRAMES = 100  # an echo is over by then: the longest delay, 250 ms, and the decay of a room, 600 ms
_COLD_FRAMES = 200  # of sound played until the canceller knows the room, in which it leaves too much of the echo
_JUDGED_FRAMES = 51  # levels are compared over this time: it takes an echo's loud and quiet moments together
_LEFT = 10 ** (-12 / 10)  # of the sound's energy: of an echo alone less is left, of somebody who talks over it more
_log = logging.getLogger(__name__)


class _Canceller(Protocol):
    """What ``pywebrtc_audio.AudioProcessor`` is to us."""

    def process(self, near: Samples, far: Samples) -> Samples:
        """Return ``near`` without what it has of ``far``."""
        ...


def find_package() -> None:
    """Raise MissingPackageError, which says what to install, if the canceller's package is missing."""
    if find_spec("pywebrtc_audio") is None:
        raise MissingPackageError(
            "pywebrtc-audio: not installed, cancelling the loudspeaker's echo needs it; "
            "`pip install 'edgekit-audio[echo]'`"
        )


class EchoCanceller:
    """Takes the microphone's samples in any pieces, hands out as many, 10 ms later, without the echo.

    While nothing is played, from a second after the last sound on, they are the microphone's bit for bit. ``played``
    tells the Gate what to make of the rest. Without the package (``cancels`` False), and after an error in it, the
    samples stay as they are, and only what is louder than the echo can be counts.
    """

    def __init__(self, reference: Reference, rate: int, *, cancels: bool = True, first: Samples | None = None) -> None:
        """``first``: the frame that comes out first, the ``rest`` of another whose sound goes on here; else silence."""
        self._reference = reference
        self.frame_samples = max(1, round(rate / FRAMES_PER_S))
        self.played = Played(self.frame_samples / rate)
        self.played.add(None)  # of the frame that comes out first
        self._in: Samples = np.zeros(0, np.float32)
        self._out: Samples = np.zeros(self.frame_samples, np.float32) if first is None else first
        assert len(self._out) == self.frame_samples
        self._canceller = self._loaded(rate) if cancels else None
        self._echo = _ExpectedEcho()
        self._warm, self._quiet = 0, _TAIL_FRAMES  # frames of sound played, and of silence since
        self._before: deque[float] = deque(maxlen=_JUDGED_FRAMES)  # energies of frames
        self._after: deque[float] = deque(maxlen=_JUDGED_FRAMES)

    @property
    def cancels(self) -> bool:
        """Whether the echo is taken out; otherwise it is only kept from being taken for somebody."""
        return self._canceller is not None

    @property
    def rest(self) -> Samples:
        """The frame that was taken and is not handed out yet, (frame_samples,) float32."""
        return np.concatenate([self._out, self._in])

    def cancel(self, samples: Samples, waiting: int = 0) -> Samples:
        """Return as many samples as are given, (n,) float32. ``waiting``: how many more are already recorded."""
        size = self.frame_samples
        self._in = np.concatenate([self._in, samples])
        whole = len(self._in) - len(self._in) % size
        done = [self._out]
        for start in range(0, whole, size):
            behind_s = (len(self._in) - start - size + waiting) * self.played.frame_s / size
            done.append(self._frame(self._in[start : start + size], behind_s))
        self._in = self._in[whole:].copy()
        ready = np.concatenate(done)
        self._out = ready[len(samples) :].copy()
        return ready[: len(samples)]

    def _frame(self, near: Samples, behind_s: float) -> Samples:
        far = self._reference.frame(len(near), behind_s)
        sounds = bool(far.any())
        self._quiet = 0 if sounds else self._quiet + 1
        if self._quiet > _TAIL_FRAMES:
            self.played.add(None)
            return near
        self._warm += sounds
        left = near if self._canceller is None else self._cancelled(self._canceller, near, far)
        before, after = float(near @ near), float(left @ left)
        self._before.append(before)
        self._after.append(after)
        louder = self._echo.louder(before, float(far @ far))
        if self.cancels:
            louder = sum(self._after) > _LEFT * sum(self._before)
        self.played.add(louder and self._warm > _COLD_FRAMES)
        return left

    def _cancelled(self, canceller: _Canceller, near: Samples, far: Samples) -> Samples:
        try:
            left: Samples = canceller.process(near, far)
        except Exception as error:  # noqa: BLE001 - whatever a compiled package raises: listening goes on without it
            self._give_up(error)
            return near
        return left

    def _loaded(self, rate: int) -> _Canceller | None:
        try:
            package = import_module("pywebrtc_audio")
            canceller: _Canceller = package.AudioProcessor(sample_rate=rate, echo_cancellation=True)
        except Exception as error:  # noqa: BLE001 - as in `_cancelled`
            self._give_up(error)
            return None
        return canceller

    def _give_up(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("echo: pywebrtc-audio failed (%s); it goes on without cancelling, use headphones", reason)
        self._canceller = None


class _ExpectedEcho:
    """How loud the echo is expected, from what was played and how loud its echo has been. Energies of frames."""

    _FRAMES = 16  # levels are compared over this time
    _HOLD_FRAMES = 30  # the echo comes within this time
    _DECAY = 10 ** (-1.0 / 10)  # of a room, in a frame
    _STEP_DB = 0.05
    _SHARE = 0.95  # of frames that are not louder than expected
    _MARGIN_DB = 3.0

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self._HOLD_FRAMES)
        self._heard: deque[float] = deque(maxlen=self._FRAMES)
        self._level = 0.0
        self._coupling_db = -6.0

    def louder(self, near: float, far: float) -> bool:
        """Return whether the last frames are louder than the echo of what was played can be; learn from them."""
        self._recent.append(far)
        self._heard.append(near)
        self._level = max(*self._recent, self._level * self._DECAY)
        heard = sum(self._heard) / len(self._heard)
        excess_db = 10 * np.log10((heard + 1e-12) / (self._level + 1e-12)) - self._coupling_db
        self._coupling_db += self._STEP_DB * (self._SHARE if excess_db > 0 else self._SHARE - 1)
        return bool(excess_db > self._MARGIN_DB)
