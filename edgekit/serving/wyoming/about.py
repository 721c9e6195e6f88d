"""What a bundle offers to clients of Wyoming, as ``info`` says it, and which of its languages a client means."""

import re
from collections.abc import Sequence
from typing import Any

from wyoming.info import AsrModel, AsrProgram, Attribution, HandleModel, HandleProgram, Info, TtsProgram, TtsVoice

from edgekit.bundle import Manifest
from edgekit.errors import RefusedError
from edgekit.reprs import quoted
from edgekit.runtime.answer import driver_of
from edgekit.runtime.model import Model
from edgekit.runtime.speak import kind_of
from edgekit.versions import VERSION

TRANSCRIBE = "transcribe"
"""The question by which a model that converses writes down what it hears."""
READ = "read"
"""The question by which a model that speaks reads a text aloud, word for word. No family has one of its own yet."""
DEFAULT_VOICE = "default"
"""The voice of a bundle that has no choice of them."""
_ENGLISH = ("en",)  # of a bundle that writes down speech and has no choice of languages
# What is asked for -> what a bundle may call it: names that the IANA registry of language subtags has given up or takes
# for the same, of which Whisper has the latter.
_SAME = {"jv": "jw", "nb": "no", "fil": "tl", "iw": "he", "in": "id", "ji": "yi"}
_URL = re.compile(r"https?://[^\s<>\"')]+")


def writes_down(manifest: Manifest) -> bool:
    """Return whether a bundle writes down what it hears, of itself or by a question."""
    return not driver_of(manifest.protocol).converses or TRANSCRIBE in manifest.protocol.questions


def answers_texts(manifest: Manifest) -> bool:
    """Return whether a bundle answers a text of the user's."""
    return driver_of(manifest.protocol).converses and "user" in manifest.protocol.roles


def voices_of(model: Model) -> tuple[str, ...]:
    """Return who reads texts aloud; empty where the bundle was not loaded to speak or only answers."""
    manifest = model.manifest
    if manifest.speech is None or READ not in manifest.protocol.questions or not answers_texts(manifest):
        return ()
    kind = kind_of(manifest.speech)
    if any(name not in model.engines for name in kind.components):
        return ()
    return kind.voices(manifest.speech) or (DEFAULT_VOICE,)


def languages(manifest: Manifest, own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the languages that are announced, by their codes of ISO 639; empty where nobody says them.

    ``own``: those that the settings name, for a bundle that does not say its own.
    """
    protocol = manifest.protocol
    if protocol.languages:
        usual = {name: code for code, name in _SAME.items() if code == "jv"}
        return tuple(sorted(usual.get(name, name) for name in protocol.languages))
    if driver_of(protocol).converses:
        return tuple(own)
    return tuple(own) or _ENGLISH


def language_option(manifest: Manifest, requested: str | None, own: Sequence[str] = ()) -> str | None:
    """Return a stream's option ``language`` for the one that a client asks for, such as ``en-US``: None, as it is.

    Its primary subtag decides (RFC 5646). Raises RefusedError for one that the bundle does not have.
    """
    if requested is None or not requested.strip():
        return None
    primary = re.split(r"[-_]", requested.strip().lower(), maxsplit=1)[0]
    known, named = languages(manifest, own), manifest.protocol.languages
    for name in (primary, _SAME.get(primary, primary)):
        if name in named:
            return name
    if named or (known and primary not in {re.split(r"[-_]", one.lower(), maxsplit=1)[0] for one in known}):
        shown = ", ".join(known) if len(known) <= 12 else f"{len(known)} that `describe` lists"
        raise RefusedError(
            "language", f"language: {quoted(requested)} is not in {manifest.name}; choose one of: {shown}"
        )
    return None  # it hears no other, or finds out by itself


def info_of(manifest: Manifest, name: str, own: Sequence[str] = (), voices: Sequence[str] = ()) -> Info:
    """Return what is said of a bundle; ``name``: what the programs are called; ``voices``: see ``voices_of``."""
    model: dict[str, Any] = {
        "name": manifest.name, "attribution": _attribution(manifest), "installed": True, "version": None,
        "description": f"{manifest.name}, {manifest.precision_line}", "languages": list(languages(manifest, own)),
    }  # fmt: skip
    program: dict[str, Any] = {
        "name": name, "attribution": Attribution(name="EdgeKit", url=""), "installed": True, "version": VERSION,
        "description": f"EdgeKit with {manifest.name}",
    }  # fmt: skip
    listening = AsrProgram(**program, models=[AsrModel(**model)], supports_transcript_streaming=True)
    answering = HandleProgram(**program, models=[HandleModel(**model)])
    speaking = TtsProgram(**program, voices=[TtsVoice(**{**model, "name": voice}) for voice in voices])
    return Info(
        asr=[listening] if writes_down(manifest) else [],
        tts=[speaking] if voices else [],
        handle=[answering] if answers_texts(manifest) else [],
    )


def _attribution(manifest: Manifest) -> Attribution:
    """Return where a bundle's weights come from and under which licence."""
    said = "; ".join(one for one in (manifest.source, manifest.license) if one) or "not said"
    url = _URL.search(said)
    return Attribution(name=said, url=url[0] if url else "")
