"""SpeechFile: spoken answers into a WAV file, written as they come, under its name only when all is there."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgekit.atomic import draft_file
from edgekit.errors import MissingPackageError, OutputError, UsageError
from edgekit.runtime.events import Audio

_REFUSED = "not written, {reason}; choose another place or free some space"


class SpeechFile:
    """A WAV file (16 bit, mono), its owner's alone, open in a ``with`` block.

    An error in the block leaves what was there before.

    Raises UsageError if the name does not end in .wav, OutputError where it cannot be written.
    """

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        if path.suffix.lower() != ".wav":
            raise UsageError(f"{path}: speech is written as WAV; give it a name that ends in .wav")
        self._path, self._rate = path, sample_rate_hz
        self.samples = 0

    def __enter__(self) -> "SpeechFile":  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            import soundfile
        except (ImportError, OSError) as error:
            raise MissingPackageError(f"soundfile: {error}; `pip install soundfile`") from error
        with ExitStack() as stack:
            self._draft = stack.enter_context(draft_file(self._path, refused=_REFUSED, private=True))
            # By its descriptor: what a file object raises in soundfile's callbacks is lost.
            self._file = soundfile.SoundFile(
                self._draft.file.fileno(), "w", self._rate, 1, "PCM_16", format="WAV", closefd=False
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._file.close()
            if kind is None:
                self._draft.publish()

    def audio(self, audio: Audio) -> None:
        """Append a piece of an answer; what exceeds [-1, 1] is clipped. Raises OutputError."""
        assert audio.sample_rate_hz == self._rate, "a bundle speaks at one rate"
        try:
            self._file.write(audio.samples)
            self.samples += len(audio.samples)
        except RuntimeError as error:  # libsndfile's
            refused = _REFUSED.format(reason=str(error).rstrip("."))
            raise OutputError(f"{self._path}: {refused}") from error
