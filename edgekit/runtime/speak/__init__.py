"""How answers are spoken: one file per way of speaking, and what they are made of.

A stranger adds one by ``register(SpeechKind(...))``, before a bundle that speaks so is loaded; ``SpeechKind`` in
``base`` says what it must have.
"""

from dataclasses import replace
from typing import Any

from edgekit.bundle import Speech
from edgekit.errors import UsageError
from edgekit.registry import Registry, check
from edgekit.runtime.answer.speaker import Speaker
from edgekit.runtime.speak import flow, talker
from edgekit.runtime.speak.base import SpeechKind
from edgekit.runtime.speak.rehearsal import Rehearsal, Spoken
from edgekit.runtime.speak.setting import SpeakerSetting

__all__ = [
    "SPEECH_KINDS", "Rehearsal", "SpeakerSetting", "SpeechKind", "Spoken", "kind_of", "open_speaker", "register",
    "registered",
]  # fmt: skip

SPEECH_KINDS = Registry[SpeechKind[Any]]("way of speaking", SpeechKind)
register, registered = SPEECH_KINDS.register, SPEECH_KINDS.registered

register(talker.KIND)
register(flow.KIND)


def kind_of(speech: Speech) -> SpeechKind[Any]:
    """Return the way of speaking that a manifest's ``speech`` is of. Raises RegistryError naming the known ones."""
    return SPEECH_KINDS.get(speech.kind)


def open_speaker(setting: SpeakerSetting) -> Speaker:
    """Return what speaks one stream's answers.

    Raises UsageError if the bundle does not speak, was loaded to write only, or has no voice of that name;
    RegistryError if its way of speaking opens what is no Speaker.
    """
    manifest = setting.bundle.manifest
    speech = manifest.speech
    if speech is None:
        raise UsageError(f"speak: {manifest.name} writes and does not speak; leave it out or choose another bundle")
    kind = kind_of(speech)
    if any(name not in setting.engines for name in kind.components):
        raise UsageError("speak: the bundle was loaded to write only; load it with speak=True")
    if setting.voice is not None:
        setting = replace(setting, voice=_voice(setting.voice, kind.voices(speech)))
    speaker = kind.open(speech, setting)
    check(speaker, Speaker, f"way of speaking '{kind.name}': its {type(speaker).__name__}")
    return speaker


def _voice(requested: str, known: tuple[str, ...]) -> str:
    """Return the voice of that name, in any case of letters where no other differs by that alone."""
    if requested in known:
        return requested
    if len(alike := [name for name in known if name.lower() == requested.lower()]) == 1:
        return alike[0]
    step = f"choose one of: {', '.join(known)}" if known else "it has no choice of voices: leave it out"
    raise UsageError(f"voice: '{requested}' is not in this bundle; {step}")
