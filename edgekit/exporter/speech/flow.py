"""``flow``: a bundle that speaks so holds prepared voices beside its graphs, each in a file of its own."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgekit.bundle import Bundle, Component, Manifest
from edgekit.bundle.speech import FlowSpeech
from edgekit.errors import CheckpointError
from edgekit.exporter.speech.base import SpeechFiles
from edgekit.runtime.speak.matching import check_voice
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, Voice, load_voice

FOLDER = "voices"
DUMMY, DUMMY_CODES = "dummy", 75  # three seconds


def read_voices(opened: Bundle, speech: FlowSpeech) -> dict[str, Voice]:
    """Return the voices of a bundle by name."""
    return {
        name: load_voice(opened.file(path), speech.sample_rate_hz, opened.read(path))
        for name, path in speech.voices.items()
    }


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


def write_voices(folder: Path, manifest: Manifest, speech: FlowSpeech, voices: Mapping[str, Voice]) -> FlowSpeech:
    """Write the voices of a bundle, noise for a dummy's; return the speech that names them.

    Raises BundleFormatError for a voice of other sizes than the flow's, CheckpointError if there is none.
    """
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
    return msgspec.structs.replace(speech, voices=paths)


FILES: SpeechFiles[FlowSpeech, Voice] = SpeechFiles(name="flow", write=write_voices, read=read_voices)
