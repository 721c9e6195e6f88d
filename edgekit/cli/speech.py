"""Where spoken answers go: a file (``run``) or the loudspeaker (``listen``)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.runtime.audio.playback import Playback
    from edgekit.runtime.audio.speech_file import SpeechFile


def speech_file(path: Path | None, manifest: "Manifest") -> "AbstractContextManager[SpeechFile | None]":
    """Return the file to speak to, if one was named."""
    if path is None:
        return nullcontext()
    from edgekit.runtime.audio.speech_file import SpeechFile

    return SpeechFile(path, _rate(manifest))


@contextmanager
def loudspeaker(manifest: "Manifest", *, speak: bool, device: int | str | None = None) -> "Iterator[Playback | None]":
    """Yield the loudspeaker, if answers are to be spoken: the device of this number or name, or the default."""
    if not speak:
        yield None
        return
    from edgekit.runtime.audio.playback import Playback

    with Playback(_rate(manifest), device) as playback:
        yield playback


def _rate(manifest: "Manifest") -> int:
    assert manifest.speech is not None, "such a bundle is not loaded to speak"
    return manifest.speech.sample_rate_hz
