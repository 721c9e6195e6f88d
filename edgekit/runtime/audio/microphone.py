"""Microphone: sound from PortAudio's callback into a Ring. Knows devices and rates; knows nothing of speech."""

from types import ModuleType, TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DeviceError
from edgekit.rates import DEFAULT_HZ
from edgekit.runtime.audio.portaudio import find_device, is_busy, load_portaudio
from edgekit.runtime.audio.ring import Ring

Samples = NDArray[np.float32]


class Flags(Protocol):
    """What PortAudio says about the samples that it hands over."""

    @property
    def input_overflow(self) -> bool:
        """Samples were lost before these."""
        ...


class Microphone:
    """A microphone, recording while in a ``with`` block into a Ring of ``buffer_s`` seconds.

    Records at ``rate_hz`` if the device can, else at the device's own rate: ``sample_rate_hz`` says which.
    ``overflows`` counts the times that PortAudio lost samples before we saw them. ``portaudio`` stands in for the
    sounddevice module. Raises DeviceError if PortAudio or the device is missing, busy or refuses, MissingPackageError
    without sounddevice.
    """

    def __init__(
        self,
        device: int | str | None = None,
        channels: int = 1,
        buffer_s: float = 10.0,
        portaudio: ModuleType | None = None,
        rate_hz: int = DEFAULT_HZ,
    ) -> None:
        self._portaudio = portaudio or load_portaudio("microphone")
        self.channels = channels
        self.overflows = 0
        self.sample_rate_hz = self._choose_rate(device, rate_hz)
        self.ring = Ring(max(1, round(buffer_s * self.sample_rate_hz)) * channels)
        try:
            self._stream = self._portaudio.InputStream(
                samplerate=self.sample_rate_hz,
                device=device,
                channels=channels,
                dtype="float32",
                callback=self._take,
                finished_callback=self.ring.close,
            )
        except self._portaudio.PortAudioError as error:
            raise _refusal(error) from error

    def __enter__(self) -> "Microphone":  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            self._stream.start()
        except self._portaudio.PortAudioError as error:
            self._stream.close()
            raise _refusal(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

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

    def _choose_rate(self, device: int | str | None, rate_hz: int) -> int:
        facts = find_device(self._portaudio, device, "input")
        if facts["max_input_channels"] < self.channels:
            raise DeviceError(
                f"microphone '{facts['name']}': {facts['max_input_channels']} channels, {self.channels} asked for; "
                "ask for fewer or name another device"
            )
        try:
            self._portaudio.check_input_settings(
                device=device, channels=self.channels, dtype="float32", samplerate=rate_hz
            )
        except self._portaudio.PortAudioError:  # opening it tells a busy device from one that cannot do this rate
            return int(facts["default_samplerate"])
        return rate_hz

    def _take(self, samples: Samples, frames: int, time: object, flags: Flags) -> None:
        """PortAudio's callback: copy and count, nothing else."""
        del frames, time
        if flags.input_overflow:
            self.overflows += 1
        self.ring.write(samples.reshape(-1))


def _refusal(error: Exception) -> DeviceError:
    if is_busy(error):
        return DeviceError("microphone: busy, another program holds it; stop that program or name another device")
    return DeviceError(f"microphone: {error}; name another device with --device")
