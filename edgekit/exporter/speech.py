"""What a bundle that speaks by a flow holds beside its graphs: prepared voices, each in a file of its own."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgekit.bundle import Bundle, Component, FlowSpeech, Manifest
from edgekit.errors import CheckpointError
from edgekit.exporter.sources.checkpoint import Beside
from edgekit.exporter.voice import prepare_voice
from edgekit.runtime.speak.matching import check_voice
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, Voice, load_voice

FOLDER = "voices"
DUMMY, DUMMY_CODES = "dummy", 75  # three seconds


def prepare_voices(found: Beside) -> dict[str, Voice]:
    """Return the voices of a checkpoint's recordings by name; raises what prepare_voice does."""
    return {name: prepare_voice(found.hearing, path) for name, path in found.recordings.items()}


def bundle_voices(opened: Bundle) -> dict[str, Voice]:
    """Return the voices of a bundle by name, none if it speaks otherwise or not at all."""
    speech = opened.manifest.speech
    if not isinstance(speech, FlowSpeech):
        return {}
    return {name: load_voice(opened.file(path), speech.sample_rate_hz) for name, path in speech.voices.items()}


def dummy_voice(speech: FlowSpeech, step: Component, seed: int) -> Voice:
    """Return a voice of seeded noise, of the sizes that ``flow_step`` wants."""
    sizes = {spec.name: spec.shape[-1] for spec in step.inputs}
    draws = np.random.default_rng(seed)
    return Voice(
        codes=draws.integers(0, speech.codes, DUMMY_CODES, dtype=np.int64),
        mel=draws.standard_normal((FRAMES_PER_CODE * DUMMY_CODES, int(sizes["x"])), np.float32),
        speaker=draws.standard_normal(int(sizes["speaker"]), np.float32),
        sample_rate_hz=speech.sample_rate_hz,
    )


def with_voices(folder: Path, manifest: Manifest, voices: Mapping[str, Voice]) -> Manifest:
    """Write the voices of a bundle that speaks by a flow, noise for a dummy's; return a manifest that names them.

    Raises BundleFormatError for a voice of other sizes than the flow's, CheckpointError if there is none.
    """
    speech = manifest.speech
    if not isinstance(speech, FlowSpeech):
        return manifest
    step = manifest.components["flow_step"]
    if not voices and manifest.dummy_seed is not None:
        voices = {DUMMY: dummy_voice(speech, step, manifest.dummy_seed)}
    if not voices:
        raise CheckpointError(f"{manifest.name}: no voice to speak with; export a checkpoint that has a recording")
    (folder / FOLDER).mkdir()
    paths = {}
    for name, voice in voices.items():
        check_voice(voice, speech, step)
        paths[name] = f"{FOLDER}/{name}.npz"
        voice.save(folder / paths[name])
    return msgspec.structs.replace(manifest, speech=msgspec.structs.replace(speech, voices=paths))
