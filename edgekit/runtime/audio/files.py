"""Audio files, by path or open: read piece by piece, or whole and resampled. What leaves here is float32 and finite.

A file is heard to its end, or an AudioError or a warning in the log says what was left out.
"""

import io
import logging
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import AudioError
from edgekit.rates import DEFAULT_HZ, rate_fault
from edgekit.runtime.audio.containers import Passage, Splice, passages
from edgekit.runtime.audio.decoders import media
from edgekit.runtime.audio.decoders.base import DamagedError, Decoder, RefusedError
from edgekit.runtime.audio.decoders.sndfile import Sndfile
from edgekit.runtime.hear.resampler import MAX_CHANNELS, Resampler, check_sound

Samples = NDArray[np.float32]

_LOG = logging.getLogger(__name__)
MOST_PIPED_BYTES = 2 << 30  # three hours of 48 kHz, two channels, 16 bits
_BLOCK_BYTES = 1 << 20
_SCALE = "scale it first, e.g. `ffmpeg -i {name} -af volume=1/32768 talk.wav`"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A stretch of sound as read: ``samples`` (n, channels) float32, full scale 1.0."""

    samples: Samples
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class _File:
    """An open file. ``shown``: what errors call it; ``name``: what a command line may; ``path``: if it has one."""

    data: BinaryIO
    size: int
    shown: str
    name: str
    path: Path | None


def read_audio(path: Path | str) -> Block:
    """Return a whole audio file. Raises AudioError if it is missing, empty, truncated, not audio or not finite."""
    pieces = list(blocks(path, 10.0))
    return Block(np.concatenate([piece.samples for piece in pieces]), pieces[0].sample_rate_hz)


def blocks(source: Path | str | BinaryIO, seconds: float) -> Iterator[Block]:
    """Yield an audio file piece by piece, ``seconds`` long but for the last, holding one piece. Errors as read_audio.

    source: its path, which may be a pipe's, or a binary file that can seek, which stays open. A file that ends early
    may be found out only at its end, after the pieces that it does have. Of files joined into one, each begins a piece.
    """
    with _opened(source) as file:
        rate, channels, position = 0, 0, 0
        for passage in _passages(file):
            with closing(_decoder(file, passage)) as decoder:
                if rate and (decoder.sample_rate_hz, decoder.channels) != (rate, channels):
                    raise AudioError(
                        f"{file.shown}: after {position} samples of {rate} Hz and {channels} channels, "
                        f"{decoder.sample_rate_hz} Hz and {decoder.channels} follow; split it, or convert it first, "
                        f"e.g. `ffmpeg -i {file.name} talk.wav`"
                    )
                rate, channels = decoder.sample_rate_hz, decoder.channels
                while len(samples := _read(file, passage, decoder, max(1, round(seconds * rate)))):
                    check_sound(samples, file.shown, position, _SCALE.format(name=file.name))
                    yield Block(samples, rate)
                    position += len(samples)
                if decoder.damaged:
                    _LOG.warning("%s: damaged frames, silent or wrong: %d", file.shown, decoder.damaged)
            if passage.notice:
                _LOG.warning("%s: %s", file.shown, passage.notice)
            if lacks := passage.cut or _lacks(passage):
                raise _truncated(file, lacks)
        if position == 0:
            raise AudioError(f"{file.shown}: no samples in it, at least one is needed; record it again")


def check_file(source: Path | str | BinaryIO) -> None:
    """Raise AudioError for a file that is missing, empty, truncated by its header, not audio, or of no rate heard."""
    with _opened(source) as file:
        found = _passages(file)
        if lacks := next(filter(None, map(_lacks, found)), ""):
            raise _truncated(file, lacks)
        _decoder(file, found[0]).close()


def read_mono(path: Path | str, rate_hz: int) -> Samples:
    """Return a whole audio file as mono samples at ``rate_hz``, (n,) float32. Errors as read_audio."""
    audio = read_audio(path)
    resampler = Resampler(audio.sample_rate_hz, audio.samples.shape[1], shown(path), rate_out=rate_hz)
    return np.concatenate([resampler.push(audio.samples), resampler.finish()])


def shown(path: Path | str) -> str:
    """Return a path as text for any terminal: what is no UTF-8 and what is no sign as backslash escapes."""
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a half of a character, which no file's name can be
        text = os.fspath(path)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def kept(file: BinaryIO, name: object) -> BinaryIO:
    """Return the rest of a file that cannot seek, such as a pipe, in memory; ``name``: what errors call it.

    Raises AudioError for one without an end, as far as can be told.
    """
    copy = io.BytesIO()
    while block := file.read(_BLOCK_BYTES):
        copy.write(block)
        if copy.tell() > MOST_PIPED_BYTES:
            shown_as = shown(name) if isinstance(name, str) and name else "audio"
            raise AudioError(
                f"{shown_as}: more than {MOST_PIPED_BYTES:,} bytes are piped in, which are kept in memory; "
                "write them to a file first"
            )
    copy.seek(0)
    copy.name = name
    return copy


def at_rest(path: Path) -> Path | BinaryIO:
    """Return a path as it is, or what a pipe holds, since that can be read only once. Raises AudioError."""
    with _system_errors(shown(path)):
        if path.is_fifo():
            with path.open("rb") as pipe:
                return kept(pipe, str(path))
    return path


def standard_input() -> BinaryIO:
    """Return what is piped into this process, in memory. Raises AudioError."""
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError("-: nothing is piped in, a recording is needed; e.g. `edgekit run BUNDLE - < talk.wav`")
    with _system_errors("-"):
        return kept(sys.stdin.buffer, "-")


@contextmanager
def _opened(source: Path | str | BinaryIO) -> Iterator[_File]:
    path = Path(source) if isinstance(source, (str, Path)) else None
    found = source if path is None else at_rest(path)
    if isinstance(found, (str, Path)):
        path = Path(found)
        with _system_errors(shown(path)):
            _check_kind(path)
            data = path.open("rb")
        with data:
            yield _measured(data, shown(path), shown(path.name), path)
        return
    name = getattr(found, "name", None)  # a number, where it was opened by its descriptor
    if isinstance(name, str) and name:
        yield _measured(found, shown(name), shown(Path(name).name), None)
    else:
        yield _measured(found, "audio", "FILE", None)


def _measured(data: BinaryIO, shown_as: str, name: str, path: Path | None) -> _File:
    with _system_errors(shown_as):
        size = data.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError(f"{shown_as}: empty, a recording is needed; record it again")
    return _File(data, size, shown_as, name, path)


@contextmanager
def _system_errors(shown_as: str) -> Iterator[None]:
    """Raise what the system says against a file as an AudioError."""
    try:
        yield
    except AudioError:  # which is a ValueError, too
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{shown_as}: no such file, a recording is needed; check the path") from error
    except OSError as error:
        raise AudioError(
            f"{shown_as}: {error.strerror}, a readable file is needed; check its path and permissions"
        ) from error
    except ValueError as error:  # a name that no file can have, or a file that is closed
        raise AudioError(f"{shown_as}: {error}, a readable file is needed; check its path") from error


def _check_kind(path: Path) -> None:
    """Raise AudioError for what is neither a file nor a pipe, OSError for what is not there."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise AudioError(f"{shown(path)}: is a folder, a recording is needed; give the files in it: {shown(path)}/*")
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise AudioError(f"{shown(path)}: is a device, a recording is needed; pipe its sound in, or record a file")


def _passages(file: _File) -> list[Passage]:
    with _system_errors(file.shown):
        return passages(file.data, file.size)


def _lacks(passage: Passage) -> str:
    """Return what a recording lacks by its header, empty if nothing."""
    return f"it is shorter than its header says: {passage.truncated}" if passage.truncated else ""


def _truncated(file: _File, lacks: str) -> AudioError:
    return AudioError(f"{file.shown}: truncated, {lacks}; copy or record it again")


def _decoder(file: _File, passage: Passage) -> Decoder:
    try:
        decoder = _chosen(file, passage)
    except AudioError as error:
        if lacks := _lacks(passage):  # what is there may be too little even to begin with
            raise _truncated(file, lacks) from error
        raise
    fault = rate_fault(decoder.sample_rate_hz)
    if fault or decoder.channels > MAX_CHANNELS:
        decoder.close()
    if fault:
        raise AudioError(
            f"{file.shown}: {fault}; resample it first, e.g. `ffmpeg -i {file.name} -ar {DEFAULT_HZ} talk.wav`"
        )
    if decoder.channels > MAX_CHANNELS:
        raise AudioError(
            f"{file.shown}: {decoder.channels} channels, at most {MAX_CHANNELS} are heard; mix it down first"
        )
    return decoder


def _chosen(file: _File, passage: Passage) -> Decoder:
    """Return what decodes a recording: libsndfile, or else FFmpeg's libraries where they are installed."""
    sound = Splice(file.data, passage.pieces)
    try:
        return Sndfile(sound, passage, file.path)
    except RefusedError as error:
        refusal = error
    if sound.error:
        raise AudioError(f"{file.shown}: {sound.error}; check its disk and copy it again") from sound.error
    if Path(file.name).suffix.lower() == ".raw":
        raise AudioError(
            f"{file.shown}: samples without a header, a file that says its rate is needed; convert it first, e.g. "
            f"`ffmpeg -f s16le -ar {DEFAULT_HZ} -i {file.name} talk.wav`"
        ) from refusal
    step = f"convert it first, e.g. `ffmpeg -i {file.name} talk.wav`"
    if file.path is None:
        step += "; samples are given as an array, with sample_rate_hz"
    file.data.seek(0)
    kind = media.kind(file.data.read(16))
    if not media.is_installed():
        if kind:
            refused = f"{kind}, libsndfile does not read it; `pip install '{media.EXTRA}'`, or {step}"
            raise AudioError(f"{file.shown}: {refused}") from refusal
        raise AudioError(f"{file.shown}: {refusal}; {step}") from refusal
    try:
        file.data.seek(0)
        return media.Media(file.data, file.shown)
    except RefusedError as error:
        raise AudioError(f"{file.shown}: {error if kind else refusal}; {step}") from error


def _read(file: _File, passage: Passage, decoder: Decoder, samples: int) -> Samples:
    try:
        return decoder.read(samples)
    except DamagedError as error:
        if lacks := _lacks(passage):  # some decoders stop for the end that is not there
            raise _truncated(file, lacks) from error
        raise AudioError(f"{file.shown}: {error}; copy or record it again") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"{file.shown}: {error}; check its disk and copy it again") from error
