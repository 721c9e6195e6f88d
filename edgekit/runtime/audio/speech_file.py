"""SpeechFile: spoken answers into a WAV file, written as they come, under its name only when all is there."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from edgekit.errors import MissingPackageError, OutputError, UsageError
from edgekit.runtime.events import Audio


class SpeechFile:
    """A WAV file (16 bit, mono), open in a ``with`` block. An error in the block leaves what was there before.

    Raises UsageError if the name does not end in .wav, OutputError where it cannot be written.
    """

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        if path.suffix.lower() != ".wav":
            raise UsageError(f"{path}: speech is written as WAV; give it a name that ends in .wav")
        self._path, self._rate = path, sample_rate_hz
        self.samples = 0
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> "SpeechFile":  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            import soundfile
        except (ImportError, OSError) as error:
            raise MissingPackageError(f"soundfile: {error}; `pip install soundfile`") from error
        try:
            if self._path.is_dir():
                raise IsADirectoryError(21, "Is a directory", str(self._path))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._partial.open("wb")
        except OSError as error:
            raise self._refusal(error.strerror) from error
        # By its descriptor: what a file object raises in soundfile's callbacks is lost.
        self._file = soundfile.SoundFile(
            self._stream.fileno(), "w", self._rate, 1, "PCM_16", format="WAV", closefd=False
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._stream.close()
        try:
            if kind is None:
                self._partial.replace(self._path)
        except OSError as refused:
            raise self._refusal(refused.strerror) from refused
        finally:
            with suppress(OSError):  # it was renamed, or its disk is gone
                self._partial.unlink()

    def audio(self, audio: Audio) -> None:
        """Append a piece of an answer; what exceeds [-1, 1] is clipped. Raises OutputError."""
        assert audio.sample_rate_hz == self._rate, "a bundle speaks at one rate"
        try:
            self._file.write(audio.samples)
            self.samples += len(audio.samples)
        except RuntimeError as error:  # libsndfile's
            raise self._refusal(str(error).rstrip(".")) from error

    def _refusal(self, reason: str | None) -> OutputError:
        return OutputError(f"{self._path}: not written, {reason}; choose another place or free some space")
