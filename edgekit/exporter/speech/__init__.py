"""How bundles that speak are made: one file for each way of speaking that keeps files beside its graphs.

A stranger adds one by ``register(SpeechFiles(...))``; a way of speaking without such files needs none. What a bundle
says is compared in ``checks/speech_quality.py``, whatever way it speaks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle import Bundle, Manifest
from edgekit.exporter.speech import flow
from edgekit.exporter.speech.base import SpeechFiles
from edgekit.registry import Registry

__all__ = ["SPEECH_FILES", "SpeechFiles", "bundle_voices", "register", "registered", "with_voices"]

SPEECH_FILES = Registry[SpeechFiles[Any, Any]]("speech files", SpeechFiles)
register, registered = SPEECH_FILES.register, SPEECH_FILES.registered

register(flow.FILES)


def bundle_voices(opened: Bundle) -> Mapping[str, Any]:
    """Return the voices of a bundle by name, none if it speaks otherwise or not at all."""
    speech = opened.manifest.speech
    files = _files_of(opened.manifest)
    return files.read(opened, speech) if files else {}


def with_voices(folder: Path, manifest: Manifest, voices: Mapping[str, Any]) -> Manifest:
    """Write what the bundle's way of speaking keeps in files; return a manifest that names them.

    Raises what its ``write`` does.
    """
    files = _files_of(manifest)
    if files is None:
        return manifest
    return msgspec.structs.replace(manifest, speech=files.write(folder, manifest, manifest.speech, voices))


def _files_of(manifest: Manifest) -> SpeechFiles[Any, Any] | None:
    kind = manifest.speech.kind if manifest.speech else None
    return next((one for one in SPEECH_FILES if one.name == kind), None)
