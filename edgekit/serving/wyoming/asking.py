"""What the streams of a client are asked for: fields of StreamOptions, of those that hold for every stream."""

from collections.abc import Mapping
from typing import Any

from edgekit.bundle import Manifest
from edgekit.errors import RefusedError
from edgekit.reprs import quoted
from edgekit.runtime.answer import driver_of
from edgekit.serving.wyoming.about import DEFAULT_VOICE, READ, TRANSCRIBE
from edgekit.serving.wyoming.messages import Format, Voice

Fields = Mapping[str, Any]

_DRAWING = ("level", "sampling", "seed", "max_tokens")
_LISTENING = (*_DRAWING, "gate", "language", "task", "partials", "provisional_ms")
_QUESTION = (*_DRAWING, "gate", "provisional_ms")
_ANSWERING = (*_DRAWING, "system", "tools", "turns", "think")


def to_write_down(manifest: Manifest, every: Fields, given: Format, language: str | None) -> Fields:
    """Return what a recording is heard with; ``language``: the one that was asked for, if one was."""
    own: dict[str, Any] = {"sample_rate_hz": given.rate, "channels": given.channels}
    if driver_of(manifest.protocol).converses:
        return _some(every, _QUESTION) | own | {"prompt": TRANSCRIBE}
    fields = _some(every, _LISTENING) | own
    if fields.get("partials") != "committed":  # others may be taken back
        fields.pop("partials", None)
    return fields if language is None else fields | {"language": language}


def to_answer(every: Fields) -> Fields:
    """Return what a text is answered with."""
    return _some(every, _ANSWERING)


def to_read_aloud(every: Fields, voices: tuple[str, ...], voice: Voice | None) -> Fields:
    """Return what a text is read aloud with. Raises RefusedError for a voice that is none of ``voices``."""
    fields = _some(every, (*_DRAWING, "voice")) | {"prompt": READ, "speak": True}
    if voice is None or voice.name in {None, DEFAULT_VOICE}:
        return fields
    if voice.name not in voices:
        raise RefusedError("voice", f"voice: {quoted(voice.name)} is not known; choose one of: {', '.join(voices)}")
    return fields | {"voice": voice.name}


def _some(every: Fields, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: every[name] for name in names if name in every}
