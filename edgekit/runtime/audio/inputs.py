"""Inputs: a recording in any form in which a caller may hold it, to Blocks of samples.

A path, the bytes of an audio file and an open binary file say their own rate; an array is at the caller's.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.rates import DEFAULT_HZ, HIGHEST_HZ
from edgekit.reprs import quoted
from edgekit.runtime.audio.files import Block, at_rest, blocks, check_file, kept, shown
from edgekit.runtime.hear.resampler import LOUDEST, MAX_CHANNELS

_BLOCK_S = 1.0  # of sound taken at once: no more than that waits
_FORMS = "a path, an audio file's bytes, an open binary file or an array of samples"


class AsArray(Protocol):
    """What numpy can make an array of, such as a tensor of torch."""

    def __array__(self) -> NDArray[Any]:
        """Return the array."""
        ...


Source = Path | BinaryIO | NDArray[Any]
"""A recording that was looked at."""
Recording = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[Any] | AsArray


def checked(audio: object, sample_rate_hz: int | None) -> Source:
    """Return a recording as one of three forms, having looked at its beginning; it is not decoded yet.

    Raises UsageError for what is no recording and for a rate beside a file, AudioError for a file that cannot be read.
    A file that is not at its beginning, or cannot seek, is read from where it stands and kept in memory; it stays open.
    """
    source: Path | BinaryIO
    if isinstance(audio, (str, os.PathLike)):
        source = Path(audio)
    elif isinstance(audio, (bytes, bytearray, memoryview)):
        source = io.BytesIO(audio)
    elif hasattr(audio, "read"):
        source = _from_start(cast("BinaryIO", audio))
    else:
        return _samples(audio)
    if sample_rate_hz is not None:
        raise UsageError(f"sample_rate_hz: {quoted(sample_rate_hz)}, but a file says its own rate; leave it out")
    if isinstance(source, Path):
        source = at_rest(source)
    check_file(source)
    return source


def pieces(source: Source, sample_rate_hz: int | None) -> Iterator[Block]:
    """Yield what ``checked`` returned in pieces of a second, at least one; an array's samples are not checked yet.

    Raises AudioError for a file that cannot be read to its end.
    """
    if not isinstance(source, np.ndarray):
        yield from blocks(source, _BLOCK_S)
        return
    rate = DEFAULT_HZ if sample_rate_hz is None else sample_rate_hz
    # a rate that is none is refused by the stream's options
    size = round(_BLOCK_S * rate) if isinstance(rate, int) and 0 < rate <= HIGHEST_HZ else 0
    if not size or len(source) <= size:
        yield Block(source, rate)
        return
    for start in range(0, len(source), size):
        yield Block(source[start : start + size], rate)


def name_of(source: Source) -> str:
    """Return what the log calls a recording."""
    if isinstance(source, Path):
        return shown(source)
    if isinstance(source, np.ndarray):
        return "input"
    name = getattr(source, "name", None)
    return shown(name) if isinstance(name, str) and name else "audio"


def _from_start(file: BinaryIO) -> BinaryIO:
    if isinstance(file, io.TextIOBase):
        raise UsageError("audio: a file opened as text, bytes are needed; open it with mode 'rb'")
    seeks = hasattr(file, "seekable") and file.seekable()
    return file if seeks and file.tell() == 0 else kept(file, getattr(file, "name", ""))


def _samples(audio: object) -> NDArray[Any]:
    """Return an array of samples, (n,) or (n, channels), of a type that a stream takes."""
    name = type(audio).__name__
    if not hasattr(audio, "__array__"):
        raise UsageError(f"audio: {name}, {_FORMS} is needed; give one, or a list of them")
    samples = np.asarray(audio)
    if samples.ndim == 0:
        raise UsageError(f"audio: {name} of one value, an array of samples is needed; give (n,) or (n, channels)")
    if samples.ndim == 2 and samples.shape[0] <= MAX_CHANNELS < samples.shape[1]:
        raise UsageError(
            f"audio: shape {samples.shape}, {samples.shape[1]} channels, at most {MAX_CHANNELS} are heard; transpose "
            "it to (n, channels)"
        )
    if samples.dtype.kind == "f" and samples.size and (loudest := float(np.abs(samples).max())) > LOUDEST:
        raise UsageError(
            f"audio: values up to {loudest:.6g} in {samples.dtype}, [-1, 1] is full scale; divide what was int16 by "
            "32768, or give it as int16"
        )
    return samples
