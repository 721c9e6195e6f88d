"""Where spoken answers go: a file (``run``) or the loudspeaker (``listen``)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.cli.printer import Printer
    from edgekit.runtime.audio.playback import TurnTaking
    from edgekit.runtime.audio.speech_file import SpeechFile
    from edgekit.runtime.events import Audio


class Sink(Protocol):
    """Takes an answer piece by piece."""

    def audio(self, audio: "Audio") -> None:
        """Take the next piece at the moment it exists."""
        ...


def speech_file(path: Path | None, manifest: "Manifest") -> "AbstractContextManager[SpeechFile | None]":
    """Return the file to speak to, if one was named."""
    if path is None:
        return nullcontext()
    from edgekit.runtime.audio.speech_file import SpeechFile

    return SpeechFile(path, _rate(manifest))


@contextmanager
def speaker(manifest: "Manifest", *, speak: bool) -> "Iterator[TurnTaking | None]":
    """Yield what plays the answers, if they are to be spoken."""
    if not speak:
        yield None
        return
    from edgekit.runtime.audio.playback import Playback, TurnTaking

    with Playback(_rate(manifest)) as playback:
        yield TurnTaking(playback)


def sound(printer: "Printer", sink: Sink | None) -> dict[str, Any]:
    """Return the fields of StreamOptions that send every piece to sink and printer; none without a sink."""
    if sink is None:
        return {}

    def take(audio: "Audio") -> None:
        sink.audio(audio)
        printer.audio(audio)

    return {"speak": True, "on_audio": take}


def _rate(manifest: "Manifest") -> int:
    assert manifest.speech is not None, "such a bundle is not loaded to speak"
    return manifest.speech.sample_rate_hz
