"""Sources of sound: audio files, resampling (to the bundles' 16 kHz mono), and the microphone.

Knows files, channels, rates and PortAudio; knows nothing of speech. Whatever leaves here is float32 and finite.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import AudioError, DeviceError, MissingPackageError, UsageError
from edgekit.runtime.ring import Ring

if TYPE_CHECKING:
    import soundfile

Samples = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
MAX_CHANNELS = 64  # more is an array (channels, n), not a recording
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's count for a file that does not say
_BUSY = -9985  # PortAudio: paDeviceUnavailable


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A stretch of sound as read: ``samples`` (n, channels) float32, full scale 1.0."""

    samples: Samples
    sample_rate_hz: int


def read_audio(path: Path | str) -> Block:
    """Return a whole audio file. Raises AudioError if it is missing, empty, truncated, not audio or not finite."""
    pieces = list(blocks(path, 10.0))
    return Block(np.concatenate([piece.samples for piece in pieces]), pieces[0].sample_rate_hz)


def blocks(path: Path | str, seconds: float) -> Iterator[Block]:
    """Yield an audio file piece by piece, ``seconds`` long but for the last, holding one piece. Errors as read_audio.

    A file that ends early may be found out only at its end, after the pieces that it does have.
    """
    path = Path(path)
    with _open(path) as file:
        rate, position = file.samplerate, 0
        if file.channels > MAX_CHANNELS:
            raise AudioError(f"{path}: {file.channels} channels, at most {MAX_CHANNELS} are heard; mix it down first")
        while True:
            try:
                samples = file.read(max(1, round(seconds * rate)), dtype="float32", always_2d=True)
            except RuntimeError as error:
                raise AudioError(
                    f"{path}: damaged after {position} samples: {error}; record or copy it again"
                ) from error
            if not len(samples):
                break
            check_finite(samples, str(path), position)
            yield Block(samples, rate)
            position += len(samples)
        if position == 0:
            raise AudioError(f"{path}: no samples in it, at least one is needed; record it again")
        if position < file.frames < _UNKNOWN_FRAMES and file.format != "MP3":  # an MP3 only estimates its length
            raise AudioError(f"{path}: truncated, {position} of {file.frames} samples are there; copy it again")


def read_mono(path: Path | str) -> Samples:
    """Return a whole audio file as 16 kHz mono samples, (n,) float32. Errors as read_audio."""
    audio = read_audio(path)
    resampler = Resampler(audio.sample_rate_hz, audio.samples.shape[1], str(path))
    return np.concatenate([resampler.push(audio.samples), resampler.finish()])


def to_mono(samples: Samples) -> Samples:
    """Return the mean of the channels, (n,) float32; ``samples``: (n, channels)."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean: NDArray[np.float64] = samples.mean(axis=1, dtype=np.float64)
    return mean.astype(np.float32)


def check_finite(samples: Samples, name: str, position: int) -> None:
    """Raise AudioError if a sample is NaN or infinite, naming the first; ``position`` is that of ``samples[0]``."""
    if not np.isfinite(samples).all():
        finite = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
        index = position + int(finite.argmin())
        raise AudioError(
            f"{name}: sample {index} is NaN or infinite, finite ones are needed; repair or record it again"
        )


class Resampler:
    """Turns sound of any rate and channels into mono of ``rate_out``, in blocks of 20 ms counted from the first sample.

    Because the blocks are fixed, every split of the input gives the same bits. ``name`` is what errors call the sound.
    """

    def __init__(self, rate_in: int, channels: int, name: str = "input", rate_out: int = SAMPLE_RATE_HZ) -> None:
        if rate_in < 1 or channels < 1:
            raise UsageError(f"{name}: {rate_in} Hz and {channels} channels, at least 1 of each is needed; give both")
        if channels > MAX_CHANNELS:
            raise UsageError(
                f"{name}: {channels} channels, at most {MAX_CHANNELS} are heard; transpose the samples to (n, channels)"
            )
        self._rate, self._rate_out, self._name = rate_in, rate_out, name
        self._block = np.zeros((max(1, rate_in // 50), channels), np.float32)
        self._soxr = _soxr() if rate_in != rate_out else None
        self._reset()

    def push(self, samples: Samples) -> Samples:
        """Return the mono samples, (n,) float32, that new ``samples``, (n, channels) or mono (n,), complete.

        Raises AudioError at a NaN or an infinity, naming its position since the first sample.
        """
        channels = self._block.shape[1]
        samples = np.asarray(samples, np.float32)
        if samples.ndim == 1 and channels == 1:
            samples = samples[:, None]
        if samples.ndim != 2 or samples.shape[1] != channels:
            raise UsageError(f"{self._name}: shape {samples.shape}, (n, {channels}) was announced; push that")
        check_finite(samples, self._name, self._pushed)
        self._pushed += len(samples)
        outputs = []
        while len(samples):
            taken = samples[: len(self._block) - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            samples = samples[len(taken) :]
            if self._filled == len(self._block):
                outputs.append(self._convert(last=False))
        return np.concatenate([np.zeros(0, np.float32), *outputs])

    def finish(self) -> Samples:
        """Return the remaining samples and start afresh."""
        rest = self._convert(last=True)
        self._reset()
        return rest

    def _reset(self) -> None:
        self._pushed = self._filled = 0
        if self._soxr is not None:
            self._stream = self._soxr.ResampleStream(self._rate, self._rate_out, 1, dtype="float32", quality="HQ")

    def _convert(self, *, last: bool) -> Samples:
        mono = to_mono(self._block[: self._filled])
        self._filled = 0
        if self._soxr is None:
            return mono.copy()
        samples: Samples = self._stream.resample_chunk(np.ascontiguousarray(mono), last=last)
        return samples


class Flags(Protocol):
    """What PortAudio says about the samples that it hands over."""

    @property
    def input_overflow(self) -> bool:
        """Samples were lost before these."""
        ...


class Microphone:
    """A microphone, recording while in a ``with`` block into a Ring of ``buffer_s`` seconds.

    Records 16 kHz if the device can, else at the device's own rate: ``sample_rate_hz`` says which. ``overflows`` counts
    the times that PortAudio lost samples before we saw them. ``portaudio`` stands in for the sounddevice module. Raises
    DeviceError if PortAudio or the device is missing, busy or refuses, MissingPackageError without sounddevice.
    """

    def __init__(
        self,
        device: int | str | None = None,
        channels: int = 1,
        buffer_s: float = 10.0,
        portaudio: ModuleType | None = None,
    ) -> None:
        self._portaudio = portaudio or load_portaudio("microphone")
        self.channels = channels
        self.overflows = 0
        self.sample_rate_hz = self._choose_rate(device)
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

    def _choose_rate(self, device: int | str | None) -> int:
        try:
            facts = self._portaudio.query_devices(device, "input")
        except (ValueError, self._portaudio.PortAudioError) as error:
            raise DeviceError(f"microphone: none found ({error}); plug one in or name one with --device") from error
        if facts["max_input_channels"] < self.channels:
            raise DeviceError(
                f"microphone '{facts['name']}': {facts['max_input_channels']} channels, {self.channels} asked for; "
                "ask for fewer or name another device"
            )
        try:
            self._portaudio.check_input_settings(
                device=device, channels=self.channels, dtype="float32", samplerate=SAMPLE_RATE_HZ
            )
        except self._portaudio.PortAudioError:  # opening it tells a busy device from one that cannot do 16 kHz
            return int(facts["default_samplerate"])
        return SAMPLE_RATE_HZ

    def _take(self, samples: Samples, frames: int, time: object, flags: Flags) -> None:
        """PortAudio's callback: copy and count, nothing else."""
        del frames, time
        if flags.input_overflow:
            self.overflows += 1
        self.ring.write(samples.reshape(-1))


def _open(path: Path) -> "soundfile.SoundFile":
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError(f"{path}: no such file, a recording is needed; check the path")
        if size == 0:
            raise AudioError(f"{path}: empty, a recording is needed; record it again")
        with path.open("rb") as stream:
            whole = _is_whole(stream, size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{path}: no such file, a recording is needed; check the path") from error
    except OSError as error:
        raise AudioError(
            f"{path}: {error.strerror}, a readable file is needed; check its path and permissions"
        ) from error
    if not whole:
        raise AudioError(f"{path}: truncated, it is shorter than its header says; copy or record it again")
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingPackageError(f"soundfile: {error}; `pip install soundfile`") from error
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: {error.error_string.rstrip('.')}; convert it first, e.g. `ffmpeg -i {path.name} talk.wav`"
        ) from error


def _is_whole(stream: BinaryIO, size: int) -> bool:
    """Return whether a file holds what its header promises; libsndfile would quietly make do with less."""
    magic = stream.read(12)
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        return _is_whole_wave(stream, size)
    if magic[:4] == b"OggS":
        return _is_whole_ogg(stream, size)
    return True


def _is_whole_wave(stream: BinaryIO, size: int) -> bool:
    while len(header := stream.read(8)) == 8:
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            streamed = length == 0 or length >= 0x7FFF_0000  # a program writing to a pipe does not know yet
            return streamed or stream.tell() + length <= size
        stream.seek(length + length % 2, 1)
    return False


def _is_whole_ogg(stream: BinaryIO, size: int) -> bool:
    """Return whether the last page is complete and marked as the last. Source: RFC 3533, section 6."""
    stream.seek(max(0, size - 66_000))  # a page is at most 65,307 bytes
    tail = stream.read()
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return False
    segments = tail[start + 27 : start + 27 + tail[start + 26]]
    body = start + 27 + tail[start + 26] + sum(segments)
    return bool(tail[start + 5] & 4) and len(segments) == tail[start + 26] and body <= len(tail)


def _soxr() -> ModuleType:
    try:
        return import_module("soxr")
    except ImportError as error:
        raise MissingPackageError(f"soxr: {error}, resampling needs it; `pip install soxr`") from error


def load_portaudio(device: str) -> ModuleType:
    """Return the sounddevice module for a ``device`` that errors name: MissingPackageError, DeviceError."""
    try:
        return import_module("sounddevice")
    except ImportError as error:
        raise MissingPackageError(
            f"sounddevice: {error}, the {device} needs it; `pip install 'edgekit-audio[mic]'`"
        ) from error
    except OSError as error:
        raise DeviceError(f"{device}: {error}, the PortAudio library is needed; `apt install libportaudio2`") from error


def is_busy(error: Exception) -> bool:
    """Return whether PortAudio refused because another program holds the device."""
    return _BUSY in error.args or "Device unavailable" in str(error)


def _refusal(error: Exception) -> DeviceError:
    if is_busy(error):
        return DeviceError("microphone: busy, another program holds it; stop that program or name another device")
    return DeviceError(f"microphone: {error}; name another device with --device")
