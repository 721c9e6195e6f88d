"""Microphone: sound from PortAudio's callback into a Ring. Knows devices and rates; knows nothing of speech.

One device, as long as it lasts; what listens for months takes ``devices.lasting.LastingMicrophone``.
"""

from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DeviceError
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.audio.devices.calls import closed, opened
from edgekit.runtime.audio.portaudio import find_device, is_busy, load_portaudio
from edgekit.runtime.audio.ring import Ring

Samples = NDArray[np.float32]
# Given a block (n, channels), when the device says that it began (0: it does not), whether samples were lost before it.
HandOver = Callable[[Samples, float, bool], object]


class Flags(Protocol):
    """What PortAudio says about the samples that it hands over."""

    @property
    def input_overflow(self) -> bool:
        """Samples were lost before these."""
        ...


class Microphone:
    """A microphone, recording while in a ``with`` block into a Ring of ``buffer_s`` seconds.

    Records at ``rate_hz`` if the device can, else at the device's own rate: ``sample_rate_hz`` says which.
    ``overflows`` counts the times that PortAudio lost samples before we saw them. ``hand_over`` gets the blocks in
    place of the ring, on PortAudio's thread, in memory that it overwrites. ``hint``: see ``find_device``. ``portaudio``
    stands in for the sounddevice module. Raises DeviceError if PortAudio or the device is missing, busy or refuses,
    MissingPackageError without sounddevice.
    """

    def __init__(
        self,
        device: int | str | None = None,
        channels: int = 1,
        buffer_s: float = 10.0,
        *,
        portaudio: ModuleType | None = None,
        rate_hz: int = DEFAULT_HZ,
        hand_over: HandOver | None = None,
        hint: int | None = None,
    ) -> None:
        self._portaudio = portaudio or load_portaudio("microphone")
        self._hand_over = hand_over
        self._closed = False
        self.channels = channels
        self.overflows = 0
        self.facts = find_device(self._portaudio, device, "input", hint)
        self.sample_rate_hz = self._choose_rate(rate_hz)
        self.ring = Ring(max(1, round(buffer_s * self.sample_rate_hz)) * channels)
        try:
            self._stream = self._portaudio.InputStream(
                samplerate=self.sample_rate_hz,
                device=self.facts["index"],
                channels=channels,
                dtype="float32",
                callback=self._take,
                finished_callback=self.ring.close,
            )
        except self._portaudio.PortAudioError as error:
            raise _refusal(error) from error
        opened(self._stream)

    def __enter__(self) -> "Microphone":  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            self._stream.start()
        except self._portaudio.PortAudioError as error:
            self.close()
            raise _refusal(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and let the device go, once; one that is frozen keeps who calls."""
        if not self._closed:
            self._closed = True  # PortAudio's own close would read what it has freed
            self._stream.close()
            closed(self._stream)

    @property
    def dropped_samples(self) -> int:
        """Samples per channel that were recorded but not read in time."""
        return self.ring.dropped_samples // self.channels

    def wait(self, timeout_s: float) -> bool:
        """Sleep until samples are there, at most ``timeout_s``; say whether they are. DeviceError if it has stopped."""
        if self.ring.wait(timeout_s):
            return True
        if self.ring.closed:
            raise DeviceError("microphone: it stopped sending sound while in use; check its plug, then start again")
        return False

    def read(self, max_samples: int) -> Samples:
        """Return the oldest samples that wait, (n, channels) float32 with n <= ``max_samples``. Never blocks."""
        return self.ring.read(max_samples * self.channels).reshape(-1, self.channels)

    def _choose_rate(self, rate_hz: int) -> int:
        facts = self.facts
        if facts["max_input_channels"] < self.channels:
            raise DeviceError(
                f"microphone '{facts['name']}': {facts['max_input_channels']} channels, {self.channels} asked for; "
                "ask for fewer or name another device"
            )
        try:
            self._portaudio.check_input_settings(
                device=facts["index"], channels=self.channels, dtype="float32", samplerate=rate_hz
            )
        except self._portaudio.PortAudioError:  # opening it tells a busy device from one that cannot do this rate
            return int(facts["default_samplerate"])
        return rate_hz

    def _take(self, samples: Samples, frames: int, time: object, flags: Flags) -> None:
        """PortAudio's callback: copy and count, nothing else."""
        del frames
        if flags.input_overflow:
            self.overflows += 1
        if self._hand_over is None:
            self.ring.write(samples.reshape(-1))
        else:
            self._hand_over(samples, getattr(time, "inputBufferAdcTime", 0.0), bool(flags.input_overflow))


def _refusal(error: Exception) -> DeviceError:
    if is_busy(error):
        return DeviceError("microphone: busy, another program holds it; stop that program or name another device")
    return DeviceError(f"microphone: {error}; name another device with --device")
