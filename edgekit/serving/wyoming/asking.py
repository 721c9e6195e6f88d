"""What the streams of a client are asked for: its own options, and which of the server's defaults do not hold there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.bundle import Manifest
from edgekit.errors import RefusedError
from edgekit.reprs import quoted
from edgekit.runtime.answer import driver_of
from edgekit.serving.wyoming.about import DEFAULT_VOICE, READ, TRANSCRIBE
from edgekit.serving.wyoming.messages import Format, Voice

Fields = Mapping[str, Any]

_OF_SPEECH = ("language", "task", "times")  # of bundles that write down what they hear, and know no questions
_OF_HEARING = ("gate", *_OF_SPEECH, "partials", "provisional_ms")
_OF_ANSWERS = ("system", "prompt", "tools", "turns", "think", "speak", "voice")


@dataclass(frozen=True, slots=True)
class Asking:
    """``own``: fields of StreamOptions that a client's request says; ``without``: see ``Server.options``."""

    own: Fields
    without: tuple[str, ...]


def to_write_down(manifest: Manifest, defaults: Fields, given: Format, language: str | None) -> Asking:
    """Return what a recording is heard with; ``language``: the one that was asked for, if one was."""
    own: dict[str, Any] = {"sample_rate_hz": given.rate, "channels": given.channels}
    if defaults.get("partials") != "committed":  # others may be taken back
        own["partials"] = False
    if driver_of(manifest.protocol).converses:
        return Asking(own | {"prompt": TRANSCRIBE}, (*_OF_SPEECH, *_OF_ANSWERS))
    if language is not None:
        own["language"] = language
    return Asking(own, ("times", *_OF_ANSWERS))


def to_answer() -> Asking:
    """Return what a text is answered with."""
    return Asking({}, (*_OF_HEARING, "prompt", "speak", "voice"))


def to_read_aloud(voices: tuple[str, ...], voice: Voice | None) -> Asking:
    """Return what a text is read aloud with. Raises RefusedError for a voice that is none of ``voices``."""
    own = {"prompt": READ, "speak": True}
    without = (*_OF_HEARING, "system", "tools", "turns", "think")
    if voice is None or voice.name in {None, DEFAULT_VOICE}:
        return Asking(own, without)
    if voice.name not in voices:
        raise RefusedError("voice", f"voice: {quoted(voice.name)} is not known; choose one of: {', '.join(voices)}")
    return Asking(own | {"voice": voice.name}, without)
