"""Playback: a spoken answer through the loudspeaker, as it comes, until it is over or the user speaks again.

    worker: play -> Ring -> PortAudio callback

The callback copies and counts and nothing else; all else is called by any thread, under a lock that the callback does
not know. Knows samples, rates and PortAudio; knows nothing of how speech is made.
"""

import threading
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DeviceError
from edgekit.runtime.audio.devices.calls import OPEN_S, closed, let_go, opened, within
from edgekit.runtime.audio.portaudio import find_device, is_busy, load_portaudio
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.events import Audio, AudioEnded, Event
from edgekit.runtime.hear.resampler import Resampler

Samples = NDArray[np.float32]

SPEECH_RATE_HZ = 24_000
_BLOCK_S = 0.01  # what is left to play after a flush, at most, beside the device's own buffer
_LATENCY_S = (
    0.025  # asked of the device's buffer: with a block it is silent 35 ms after a flush; less breaks off sooner
)
_REFERENCE_S = 12.0  # of what was played, for who takes out its echo: longer than a microphone's ring
_STALLED_S = 5.0  # longer than any device buffers
_LOOK_S = 0.1  # between two looks at whether to stop


class Flags(Protocol):
    """What PortAudio says about the samples that it asks for."""

    @property
    def output_underflow(self) -> bool:
        """It had to make up sound before these, because it was called back too late."""
        ...


class Playback:
    """A loudspeaker, playing while in a ``with`` block; leaving it stops at once, ``drain`` plays to the end first.

    Plays at ``sample_rate_hz`` if the device can, else at the device's own rate: ``device_rate_hz`` says which. At most
    ``buffer_s`` seconds wait; a model that speaks faster than that drops the oldest. ``underruns``: how often an answer
    was broken off because its next sample came too late; the silence between two answers is none. ``reference``: what
    the device was given, silence too, at its rate, if it was asked for. ``portaudio`` stands in for the sounddevice
    module. Raises DeviceError if PortAudio or the device is missing, busy or refuses,
    MissingPackageError without sounddevice.
    """

    def __init__(
        self,
        sample_rate_hz: int = SPEECH_RATE_HZ,
        device: int | str | None = None,
        buffer_s: float = 600.0,
        portaudio: ModuleType | None = None,
        *,
        keeps_reference: bool = False,
    ) -> None:
        self._portaudio = portaudio or within(OPEN_S, "speaker", lambda: load_portaudio("speaker"))
        self._device = device
        self.device_rate_hz, self._channels = within(OPEN_S, "speaker", lambda: self._choose(sample_rate_hz))
        self.ring = Ring(max(1, round(buffer_s * self.device_rate_hz)))
        self.underruns = 0  # the callback's
        self._short = False  # the callback's: it found too few samples last time
        self._silence = 0  # the callback's: samples of silence that it gave since the last of an answer
        self.reference = Ring(round(_REFERENCE_S * self.device_rate_hz)) if keeps_reference else None
        self._block = max(1, round(_BLOCK_S * self.device_rate_hz))
        self._resampler: Resampler | None = None
        self._resampled_hz = self.device_rate_hz
        self._speaking = False
        self._answer_start = -1  # position in the ring of the last answer's first sample
        self._ending = False
        self._ended = threading.Event()
        self._turn = threading.RLock()  # the ring has one producer at a time
        self._resting = self._over = False
        within(OPEN_S, "speaker", self._open)
        opened(self, self._rest_a_moment)

    def __enter__(self) -> "Playback":  # noqa: PYI034 - typing.Self needs Python 3.11
        within(OPEN_S, "speaker", self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if let_go(self._close):
            closed(self)

    def _open(self) -> None:
        try:
            self._stream = self._portaudio.OutputStream(
                samplerate=self.device_rate_hz,
                device=find_device(self._portaudio, self._device, "output")["index"],
                channels=self._channels,
                dtype="float32",
                latency=_LATENCY_S,
                callback=self._give,
                finished_callback=self._finished,
            )
        except self._portaudio.PortAudioError as error:
            raise _refusal(error) from error
        self._closed = False

    def _start(self) -> None:
        try:
            self._stream.start()
        except self._portaudio.PortAudioError as error:
            self._close()
            raise _refusal(error) from error

    def _close(self) -> None:
        if not self._closed:
            self._closed = True  # PortAudio's own close would read what it has freed
            self._stream.close()

    def _finished(self) -> None:
        if not self._resting:
            self._ended.set()

    def _rest_a_moment(self) -> Callable[[], None] | None:
        """Let the device go between two answers, or one that has stopped: PortAudio can look for devices then."""
        if self._over or (self.playing and not self._ended.is_set()):
            return None
        self._resting = True
        self._close()
        return self._wake

    def _wake(self) -> None:
        if self._over:
            return
        try:
            self._open()
            self._start()
            self._ended.clear()
        except DeviceError:
            self._ended.set()  # told by the next `play`, unless it has come back by then
        finally:
            self._resting = False

    def play(self, samples: Samples, sample_rate_hz: int) -> None:
        """Append a piece of an answer, (n,) float32 in [-1, 1]. Never waits; DeviceError if the device has stopped."""
        if self._ended.is_set():
            raise _stopped()
        with self._turn:
            self._play(samples, sample_rate_hz)

    def _play(self, samples: Samples, sample_rate_hz: int) -> None:
        if sample_rate_hz != self._resampled_hz:
            self._write(self._rest())
            same = sample_rate_hz == self.device_rate_hz
            self._resampler = None if same else Resampler(sample_rate_hz, 1, "speech", rate_out=self.device_rate_hz)
            self._resampled_hz = sample_rate_hz
        self._write(samples if self._resampler is None else self._resampler.push(samples))

    def finish(self) -> None:
        """End the answer: what ``play`` gets next is another one."""
        with self._turn:
            self._write(self._rest())
            self._speaking = False

    @property
    def latency_s(self) -> float:
        """Seconds that the device itself plays later than it was given, as PortAudio says."""
        return float(self._stream.latency)

    @property
    def played_s(self) -> float:
        """Seconds of answers that the device was given."""
        return self.ring.processed_samples / self.device_rate_hz

    def flush(self) -> float:
        """Stop speaking, drop what is not played yet; return the seconds of the last answer that were heard.

        What the device was given and has not played by its own account is not heard yet; it plays that all the same.
        """
        with self._turn:
            played = self.ring.processed_samples + self.ring.dropped_samples - self._answer_start
            played -= max(0, round(self.latency_s * self.device_rate_hz) - self._silence)
            written = self.ring.written_samples - self._answer_start
            self._rest()
            self._speaking = False
            self.ring.discard()
            return 0.0 if self._answer_start < 0 else max(0, min(played, written)) / self.device_rate_hz

    @property
    def playing(self) -> bool:
        """Whether there is sound that was not played yet."""
        return self.ring.available_samples > 0

    def drain(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait until all is played or ``stopped``, and stop for good. Raises DeviceError if the device stops before."""
        self.finish()
        self._ending = True
        left_s = self.ring.available_samples / self.device_rate_hz + _STALLED_S
        while left_s > 0 and not self._ended.wait(min(left_s, _LOOK_S)):
            if stopped():
                return
            left_s -= _LOOK_S
        if self.ring.available_samples or not self._ended.is_set():
            raise _stopped()

    def _rest(self) -> Samples:
        return np.zeros(0, np.float32) if self._resampler is None else self._resampler.finish()

    def _write(self, samples: Samples) -> None:
        if not len(samples):
            return
        if not self._speaking:
            self._answer_start = self.ring.written_samples
            self._speaking = True
        for start in range(0, len(samples), self._block):
            self.ring.write(samples[start : start + self._block])

    def _choose(self, sample_rate_hz: int) -> tuple[int, int]:
        """Return the rate and the number of channels to open the device with, mono at ``sample_rate_hz`` first."""
        facts = find_device(self._portaudio, self._device, "output")
        rates = (sample_rate_hz, int(facts["default_samplerate"]))
        choices = [
            (rate, channels) for rate in rates for channels in (1, 2) if channels <= facts["max_output_channels"]
        ]
        for rate, channels in choices:
            try:
                self._portaudio.check_output_settings(
                    device=facts["index"], channels=channels, dtype="float32", samplerate=rate
                )
            except self._portaudio.PortAudioError:  # opening it tells a busy device from one that cannot do this
                continue
            return rate, channels
        return rates[1], 1

    def _give(self, out: Samples, frames: int, time: object, flags: Flags) -> None:
        """PortAudio's callback: copy and count, nothing else. out: (frames, channels), to be filled."""
        del time
        samples = self.ring.read(frames)
        out[: len(samples)] = samples[:, None]
        out[len(samples) :] = 0.0
        if self.reference is not None:
            self.reference.write(out[:, 0])
        self._silence = (0 if len(samples) else self._silence) + frames - len(samples)
        if len(samples) and (self._short or flags.output_underflow):
            position = self.ring.processed_samples + self.ring.dropped_samples - len(samples)
            self.underruns += position != self._answer_start
        self._short = len(samples) < frames
        if self._short and self._ending:
            raise self._portaudio.CallbackStop


class TurnTaking:
    """Plays a stream's answers and lets the user interrupt them: give it every ``event``, and call ``talked`` while the
    user talks, from whichever thread knows.
    """

    def __init__(self, playback: Playback, interrupt: Callable[[int, float], None]) -> None:
        """``interrupt``: the stream's, told the answer and how many seconds of it were played."""
        self.playback, self._interrupt = playback, interrupt
        self._answer = 0  # the latest that was played
        self._silenced = 0  # no answer up to this one is played any more
        self._turn = threading.Lock()

    def event(self, event: Event) -> None:
        """Play a piece of an answer, unless it was silenced; end the answer after its last piece."""
        with self._turn:
            if isinstance(event, Audio) and event.answer > self._silenced:
                if event.answer != self._answer:
                    self.playback.finish()  # of one that has no end, since it was hushed
                self._answer = event.answer
                self.playback.play(event.samples, event.sample_rate_hz)
            elif isinstance(event, AudioEnded) and event.answer == self._answer:
                self.playback.finish()

    def talked(self, answering: int | None) -> None:
        """Fall silent at once where the user talks into an answer, and end it in the conversation.

        ``answering``: the answer that is being written or spoken, if there is one.
        """
        with self._turn:
            playing = self._answer if self.playback.playing else None
            answer = max(answering or 0, playing or 0)
            if answer <= self._silenced:
                return
            self._silenced = answer
            heard_s = self.playback.flush()
            if answer != self._answer:
                heard_s = 0.0
        self._interrupt(answer, heard_s)


def _stopped() -> DeviceError:
    return DeviceError("speaker: it stopped taking sound while in use; check its plug, then start again")


def _refusal(error: Exception) -> DeviceError:
    if is_busy(error):
        return DeviceError("speaker: busy, another program holds it; stop that program, or run without --speak")
    return DeviceError(f"speaker: {error}; choose another default output, or run without --speak")
