"""A tiny Step-Audio 2 checkpoint that speaks: weights, token2wav, and a recording to take a voice from."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import load_file, save_file

from edgekit.exporter.voice import SPEAKER_MODEL, SPEECH_TOKENIZER
from tests.exporter import pickles
from tests.exporter.test_voice import speaker_model, tokenizer
from tests.reference import flow_weights, hift_case
from tests.reference.checkpoints import StepAudioShape, write_step_audio

CODES = flow_weights.TINY.conformer.codes
FLOW = dataclasses.replace(flow_weights.TINY, dit=dataclasses.replace(flow_weights.TINY.dit, mel_bins=80, speaker=192))
SHAPE = StepAudioShape(codes=CODES + 3, text_positions=2048, seed=21)
GUIDANCE = 0.6
SETTINGS = f"""
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    vocab_size: {CODES}
    decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM
        inference_cfg_rate: {GUIDANCE}
"""


def write(folder: Path, shape: StepAudioShape = SHAPE) -> Path:
    """Write the checkpoint into ``folder`` and return the folder. Its answers seldom end by themselves."""
    write_step_audio(folder, shape)
    weights = load_file(folder / "model.safetensors")
    for stop in _stops(folder):
        weights["lm_head.weight"][stop] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    sounds = folder / "token2wav"
    sounds.mkdir()
    flow = flow_weights.draw(FLOW, 3).arrays
    pickles.save(sounds / "flow.pt", {name.removeprefix("flow."): array for name, array in flow.items()})
    pickles.save(sounds / "hift.pt", hift_case.stored())
    (sounds / "flow.yaml").write_text(SETTINGS)
    tokenizer(sounds / SPEECH_TOKENIZER, scale=50.0)
    speaker_model(sounds / SPEAKER_MODEL)
    (folder / "assets").mkdir()
    for name, pitch in (("default_female", 220), ("default_male", 110)):
        record(folder / "assets" / f"{name}.wav", pitch)
    return folder


def record(path: Path, pitch: float, rate: int = 24_000, seconds: float = 1.2) -> Path:
    """Write a recording of somebody and return its path."""
    times = np.arange(round(seconds * rate)) / rate
    sound = 0.3 * np.sin(2 * np.pi * pitch * times) * np.sin(2 * np.pi * 1.3 * times) ** 2
    soundfile.write(path, sound.astype(np.float32), rate, subtype="FLOAT")
    return path


def _stops(folder: Path) -> list[int]:
    found: list[int] = json.loads((folder / "config.json").read_text())["eos_token_id"]
    return found
