"""Voice: whom a Flow sounds like, prepared once and kept in a small file. Knows numpy and its .npz files alone."""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleFileError, BundleFormatError

FRAMES_PER_CODE = 2  # codes come at 25 Hz, mel frames at 50 Hz
LEAST_CODES = 3  # the first codes of a prompt stand for those after its end
MOST_CODES = 752  # of half a minute, the longest recording that a voice is made of, and two for rounding
_MOST_BYTES = 16 << 20  # of the arrays; with 128 bins MOST_CODES take less than one
_MAKE = "make it again from its recording"


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A recording of somebody, as the flow takes it.

    codes: (n,) int64, its speech codes. mel: (FRAMES_PER_CODE * n, bins) float32, its log-mel at ``sample_rate_hz``.
    speaker: (width,) float32, what a speaker model says of it, before the flow's own projection.
    """

    codes: NDArray[np.int64]
    mel: NDArray[np.float32]
    speaker: NDArray[np.float32]
    sample_rate_hz: int

    def save(self, path: Path) -> None:
        """Write the file that ``load_voice`` reads; the same voice gives the same bytes."""
        fault = _fault(self)
        assert fault is None, fault
        rate = np.array(self.sample_rate_hz)
        with path.open("wb") as stream:  # given a path, numpy would add a suffix
            np.savez(stream, codes=self.codes, mel=self.mel, speaker=self.speaker, sample_rate_hz=rate)


def load_voice(path: Path, sample_rate_hz: int, content: bytes | None = None) -> Voice:
    """Return the Voice in a file, or in what was read from there.

    Raises BundleFileError if it is not there, BundleFormatError if it is no voice or one of another rate.
    """
    if content is None and not path.is_file():
        raise BundleFileError(f"{path}: no such voice; name one of the bundle's, or export it again")
    try:
        if content is None:
            content = path.read_bytes() if path.stat().st_size <= 2 * _MOST_BYTES else b""
        with zipfile.ZipFile(io.BytesIO(content)) as stored:
            found = _arrays(stored)
    except Exception as error:  # numpy reads an array's header as Python, which fails in a dozen ways
        raise BundleFormatError(f"{path}: not a voice file ({' '.join(str(error).split())}); {_MAKE}") from error
    expected = ("codes", "mel", "speaker", "sample_rate_hz")
    if odd := sorted(found.keys() ^ set(expected)):
        state = "is not a part of a voice" if odd[0] in found else "is missing"
        raise BundleFormatError(f"{path}: '{odd[0]}' {state}, which has {', '.join(expected)}; {_MAKE}")
    rate = found["sample_rate_hz"]
    if rate.shape != () or rate.dtype.kind not in "iu":
        raise BundleFormatError(
            f"{path}: sample_rate_hz is {rate.dtype} {rate.shape}, must be one whole number; {_MAKE}"
        )
    if int(rate) != sample_rate_hz:
        raise BundleFormatError(f"{path}: a voice at {int(rate)} Hz, this bundle speaks at {sample_rate_hz}; {_MAKE}")
    voice = Voice(found["codes"], found["mel"], found["speaker"], int(rate))
    if fault := _fault(voice):
        raise BundleFormatError(f"{path}: {fault}; {_MAKE}")
    return voice


def _arrays(stored: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name; no more is read, and no more memory taken, than a voice has bytes."""
    if (size := sum(one.file_size for one in stored.infolist())) > _MOST_BYTES:
        raise ValueError(f"{size} bytes, a voice has at most {_MOST_BYTES}")
    found = {}
    for one in stored.infolist():
        with stored.open(one) as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{one.filename} is of another version")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            data = file.read()
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{one.filename} is said to be {dtype} {shape}, {len(data)} bytes are there")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
        found[one.filename.removesuffix(".npy")] = array.copy()
    return found


def _fault(voice: Voice) -> str | None:
    """Return what is wrong with a voice by itself, None if nothing is."""
    codes, mel, speaker = voice.codes, voice.mel, voice.speaker
    for name, array, dtype, axes in (
        ("codes", codes, "int64", 1),
        ("mel", mel, "float32", 2),
        ("speaker", speaker, "float32", 1),
    ):
        if array.dtype != dtype or array.ndim != axes:
            return f"{name} is {array.dtype} with {array.ndim} axes, must be {dtype} with {axes}"
    rules = (
        (len(codes) >= LEAST_CODES, f"{len(codes)} codes, at least {LEAST_CODES} are needed"),
        (bool((codes >= 0).all()), "a code is below 0"),
        (
            len(mel) == FRAMES_PER_CODE * len(codes),
            f"{len(mel)} mel frames for {len(codes)} codes, must be twice as many",
        ),
        (
            bool(np.isfinite(mel).all() and np.isfinite(speaker).all()),
            "mel or speaker holds a number that is not finite",
        ),
        (bool(speaker.any()), "speaker is zero everywhere"),
    )
    return next((said for holds, said in rules if not holds), None)
