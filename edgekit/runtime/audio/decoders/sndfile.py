"""libsndfile: opens a recording and hands out its samples in order."""

import os
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import MissingPackageError
from edgekit.runtime.audio.containers import Passage, Splice
from edgekit.runtime.audio.decoders.base import DamagedError, RefusedError
from edgekit.runtime.audio.decoders.complaints import complaints

if TYPE_CHECKING:
    import soundfile

Samples = NDArray[np.float32]

_READ_AHEAD = 1 << 16  # bytes
_UNKNOWN_SAMPLES = 1 << 62  # libsndfile's count for a file that does not say
_BY_NAME = {".gsm", ".vox"}  # samples without a header, whose kind and rate libsndfile knows by the name


class Sndfile:
    """A Decoder of what libsndfile reads. Raises RefusedError."""

    def __init__(self, sound: Splice, passage: Passage, path: Path | None) -> None:
        library = _library()
        try:
            try:
                with complaints():
                    self._file = _opened(sound)
            except library.LibsndfileError:
                if path is None or path.suffix.lower() not in _BY_NAME:
                    raise
                self._file = _opened(os.fsencode(path))
        except library.LibsndfileError as error:
            raise RefusedError(error.error_string.rstrip(".")) from error
        self._sound = sound
        self._read = 0
        self.damaged = 0  # frames of MPEG that were heard in part at most
        self._mpeg = self._file.subtype.startswith("MPEG")
        stated = 0 if self._mpeg else self._file.frames  # of MPEG guessed from the first frame's bit rate
        self._stated = passage.samples or (stated if stated < _UNKNOWN_SAMPLES else 0)

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second."""
        return int(self._file.samplerate)

    @property
    def channels(self) -> int:
        """Samples at a time."""
        return int(self._file.channels)

    def read(self, samples: int) -> Samples:
        """Return the next samples, (n, channels) float32, none at the end. Raises DamagedError, OSError."""
        try:
            data = self._next(samples)
        except RuntimeError as error:
            if self._sound.ended and self._read < self._stated:
                raise DamagedError(self._truncated()) from error
            raise DamagedError(f"damaged after {self._read} samples: {error}") from error
        finally:
            if self._sound.error:
                raise self._sound.error
        self._read += len(data)
        if not len(data) and self._read < self._stated:
            raise DamagedError(self._truncated())
        if not len(data) and (unread := self._unread()):
            raise DamagedError(f"{unread} bytes follow the {self._stated} samples that its header states")
        return data

    def _unread(self) -> int:
        """Return how many bytes are left of FLAC, none where they may be read ahead."""
        left = self._sound.left if self._file.format == "FLAC" else 0
        return left if left > _READ_AHEAD else 0

    def _next(self, samples: int) -> Samples:
        said: list[str] = []
        if self._stated and not self._mpeg:  # libFLAC takes offence at whatever follows the last frame
            samples = min(samples, self._stated - self._read)
        with complaints() if self._mpeg else nullcontext(said) as said:
            data: Samples = self._file.read(samples, dtype="float32", always_2d=True)
        self.damaged += sum("error" in line for line in said)
        return data

    def _truncated(self) -> str:
        return f"truncated, {self._read} of {self._stated} samples are there"

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _opened(source: "Splice | bytes") -> "soundfile.SoundFile":
    """Return a file that is only read from its beginning to its end.

    soundfile seeks after each read of a file that can, to where it is. Of MP3, whose frames lean on those before, that
    spoils some sound.
    """
    file: soundfile.SoundFile = type("Straight", (_library().SoundFile,), {"seekable": lambda _file: False})(source)
    return file


@cache
def _library() -> Any:  # noqa: ANN401 - soundfile is untyped
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingPackageError(f"soundfile: {error}; `pip install soundfile`") from error
    return soundfile
