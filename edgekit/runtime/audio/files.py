"""Audio files, by path or open: read piece by piece, or whole and resampled. What leaves here is float32 and finite."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import AudioError, MissingPackageError
from edgekit.rates import DEFAULT_HZ, rate_fault
from edgekit.runtime.hear.resampler import MAX_CHANNELS, Resampler, check_finite

if TYPE_CHECKING:
    import soundfile

Samples = NDArray[np.float32]

_UNKNOWN_FRAMES = 1 << 62  # libsndfile's count for a file that does not say


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A stretch of sound as read: ``samples`` (n, channels) float32, full scale 1.0."""

    samples: Samples
    sample_rate_hz: int


def read_audio(path: Path | str) -> Block:
    """Return a whole audio file. Raises AudioError if it is missing, empty, truncated, not audio or not finite."""
    pieces = list(blocks(path, 10.0))
    return Block(np.concatenate([piece.samples for piece in pieces]), pieces[0].sample_rate_hz)


def blocks(source: Path | str | BinaryIO, seconds: float) -> Iterator[Block]:
    """Yield an audio file piece by piece, ``seconds`` long but for the last, holding one piece. Errors as read_audio.

    source: its path, or a binary file that can seek, which stays open. A file that ends early may be found out only at
    its end, after the pieces that it does have.
    """
    path, name = _named(source)
    with _open(source) as file:
        rate, position = file.samplerate, 0
        if fault := rate_fault(rate):
            raise AudioError(f"{path}: {fault}; resample it first, e.g. `ffmpeg -i {name} -ar {DEFAULT_HZ} talk.wav`")
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


def check_file(source: Path | BinaryIO) -> None:
    """Raise AudioError for a file that is missing, empty, truncated by its header, or not audio."""
    with _open(source):
        pass


def read_mono(path: Path | str, rate_hz: int) -> Samples:
    """Return a whole audio file as mono samples at ``rate_hz``, (n,) float32. Errors as read_audio."""
    audio = read_audio(path)
    resampler = Resampler(audio.sample_rate_hz, audio.samples.shape[1], str(path), rate_out=rate_hz)
    return np.concatenate([resampler.push(audio.samples), resampler.finish()])


def _named(source: Path | str | BinaryIO) -> tuple[str, str]:
    """Return what errors call a file, and what a command line may."""
    if isinstance(source, (str, Path)):
        return str(source), Path(source).name
    name = getattr(source, "name", None)  # a number, where it was opened by its descriptor
    return (name, Path(name).name) if isinstance(name, str) else ("audio", "FILE")


def _open(source: Path | str | BinaryIO) -> "soundfile.SoundFile":
    if isinstance(source, (str, Path)):
        whole = _is_whole_path(Path(source))
    else:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if size == 0:
            raise AudioError(f"{_named(source)[0]}: empty, a recording is needed; record it again")
        whole = _is_whole(source, size)
        source.seek(0)
    path, name = _named(source)
    if not whole:
        raise AudioError(f"{path}: truncated, it is shorter than its header says; copy or record it again")
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingPackageError(f"soundfile: {error}; `pip install soundfile`") from error
    try:
        return soundfile.SoundFile(source)
    except TypeError as error:  # by a name that ends in .raw
        raise AudioError(
            f"{path}: samples without a header, a file that says its rate is needed; convert it first, e.g. "
            f"`ffmpeg -f s16le -ar {DEFAULT_HZ} -i {name} talk.wav`"
        ) from error
    except soundfile.LibsndfileError as error:
        step = f"convert it first, e.g. `ffmpeg -i {name} talk.wav`"
        if not isinstance(source, (str, Path)):
            step += "; samples are given as an array, with sample_rate_hz"
        raise AudioError(f"{path}: {error.error_string.rstrip('.')}; {step}") from error


def _is_whole_path(path: Path) -> bool:
    """Return whether a file holds what its header promises. Raises AudioError where there is nothing to read."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise AudioError(f"{path}: is a folder, a recording is needed; give the files in it: {path}/*")
        if not path.is_file():
            raise AudioError(f"{path}: no such file, a recording is needed; check the path")
        if size == 0:
            raise AudioError(f"{path}: empty, a recording is needed; record it again")
        with path.open("rb") as stream:
            return _is_whole(stream, size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{path}: no such file, a recording is needed; check the path") from error
    except OSError as error:
        raise AudioError(
            f"{path}: {error.strerror}, a readable file is needed; check its path and permissions"
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
