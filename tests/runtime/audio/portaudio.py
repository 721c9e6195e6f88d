"""A stand-in for the sounddevice module, whose callbacks the test calls itself."""

from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class PortAudioError(Exception):
    """Stands in for sounddevice.PortAudioError."""


class CallbackStop(Exception):  # noqa: N818 - sounddevice's name
    """Stands in for sounddevice.CallbackStop."""


class FakeStream:
    """What InputStream and OutputStream are to us: they can start and close, and call back."""

    def __init__(self, portaudio: "FakePortAudio", settings: dict[str, object]) -> None:
        self.portaudio, self.settings, self.running, self.closed = portaudio, settings, False, False
        self.latency = portaudio.latency

    def start(self) -> None:
        """Fail if the device is busy."""
        if self.portaudio.busy:
            raise PortAudioError("Error starting stream: Device unavailable [PaErrorCode -9985]", -9985)
        self.running = True

    def close(self) -> None:
        """Stop, once: PortAudio reads freed memory the second time."""
        assert not self.closed
        self.running, self.closed = False, True

    def record(self, samples: Samples, *, overflow: bool = False) -> None:
        """Call back as PortAudio does, with a buffer that it overwrites afterwards."""
        buffer = samples.copy()
        callback = self.settings["callback"]
        assert callable(callback)
        callback(buffer, len(buffer), None, SimpleNamespace(input_overflow=overflow))
        buffer[:] = np.nan

    def ask(self, frames: int, *, underflow: bool = False) -> Samples:
        """Call back for samples (frames, channels) as PortAudio does, with a buffer that holds old ones."""
        channels = self.settings["channels"]
        assert isinstance(channels, int)
        buffer = np.full((frames, channels), np.nan, np.float32)
        callback = self.settings["callback"]
        assert callable(callback)
        try:
            callback(buffer, frames, None, SimpleNamespace(output_underflow=underflow))
        except CallbackStop:
            self.unplug()
        return buffer

    def unplug(self) -> None:
        """Tell that the stream has ended by itself."""
        finished = self.settings["finished_callback"]
        assert callable(finished)
        finished()


class FakePortAudio(ModuleType):
    """The names of sounddevice that we use; one microphone, one loudspeaker. ``channels``: what the latter can do."""

    PortAudioError = PortAudioError
    CallbackStop = CallbackStop

    def __init__(
        self,
        *,
        present: bool = True,
        busy: bool = False,
        rates: tuple[int, ...] = (16_000, 48_000),
        channels: tuple[int, ...] = (1, 2),
    ) -> None:
        super().__init__("sounddevice")
        self.present, self.busy, self.rates, self.channels = present, busy, rates, channels
        self.latency = 0.0  # of the streams opened next

    def query_devices(
        self, device: object = None, kind: str | None = None
    ) -> dict[str, object] | list[dict[str, object]]:
        """Return facts of the one device, or of all that there are where none is asked for."""
        counts = {"max_input_channels": 2, "max_output_channels": max(self.channels)}
        facts = {"name": "fake", "default_samplerate": 48_000.0, "hostapi": 0} | counts
        if kind is None:
            return [facts] if self.present else []
        if not self.present:
            raise PortAudioError(f"Error querying device {device} as {kind}")
        return facts

    def query_hostapis(self) -> list[dict[str, object]]:
        """Return the one system by which devices are reached."""
        return [{"name": "ALSA"}]

    def check_input_settings(self, *, samplerate: int, **others: object) -> None:
        """Fail for a rate that the device lacks."""
        del others
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]", -9997)

    def check_output_settings(self, *, samplerate: int, channels: int, **others: object) -> None:
        """Fail for a rate or a number of channels that the device lacks."""
        del others
        if samplerate not in self.rates or channels not in self.channels:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]", -9997)

    def InputStream(self, **settings: object) -> FakeStream:  # noqa: N802 - sounddevice's name
        """Open the microphone."""
        self.stream = FakeStream(self, settings)
        return self.stream

    def OutputStream(self, **settings: object) -> FakeStream:  # noqa: N802 - sounddevice's name
        """Open the loudspeaker."""
        self.stream = FakeStream(self, settings)
        return self.stream
