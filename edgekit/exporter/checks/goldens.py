"""Goldens: what a bundle computed when it was made, stored inside it for `edgekit verify` to compare on the device.

The clips that it heard are stored with them, so that a device needs nothing but the bundle.

A bundle that is larger than the recipe's limit is not run whole, so that an export needs little memory: its encoder and
adapter are, if they fit; its backbone is known by its hash and its weight check alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, Manifest
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.pack import write_array
from edgekit.recipe import Recipe
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.text import load_tokenizer
from edgekit.runtime.backends import LoadSettings, load_engines, twin_of
from edgekit.runtime.judge.golden_clips import CLIP, FOLDER, as_heard, in_16_bits
from edgekit.runtime.judge.probe import Answer, Heard, answer, hear, speak
from edgekit.runtime.judge.verify import CALLS, LOGIT_ROWS, POSITIONS, SPOKEN_FRAMES, sample_columns
from edgekit.runtime.model import Model, load_opened


def store_goldens(folder: Path, manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """Write arrays of the first check clip, and samples of all, below ``goldens/``; return what was made of each.

    That is the file of its samples, and tokens and text if the backbone ran.
    """
    bundle = Bundle(folder, manifest)
    whole = _fits(bundle, recipe, *manifest.components)
    if not recipe.check.clips or not (whole or _fits(bundle, recipe, "encoder", "adapter")):
        return {}
    speaks = whole and manifest.speech is not None
    model = load_opened(bundle, speak=speaks, backend=twin_of(manifest.dialect)) if whole else _ears(bundle)
    found: dict[str, Any] = {}
    clips = sorted(check_clips(recipe, manifest.front_end.sample_rate_hz).items())  # as the manifest has its keys
    for index, (name, samples) in enumerate(clips):
        heard = hear(model, as_heard(in_16_bits(samples)))
        found[name] = {CLIP: f"{FOLDER}/{CLIP}.{index}.npy"}
        write_array(folder, f"{FOLDER}/{CLIP}.{index}", in_16_bits(heard.samples))
        if index == 0:
            for call, mel in enumerate(heard.mel[:CALLS]):
                write_array(folder, f"{FOLDER}/mel.{call}", mel)
            for call, part in enumerate(heard.parts[:CALLS]):
                write_array(folder, f"{FOLDER}/heard.{call}", part)
            write_array(folder, f"{FOLDER}/frames", heard.frames[:POSITIONS])
        if not whole:
            break
        told = answer(model, heard)
        found[name] |= {"text": told.text, "tokens": list(told.tokens)}
        if index == 0:
            columns = sample_columns(told.logits.shape[1])
            write_array(folder, f"{FOLDER}/logits", np.ascontiguousarray(told.logits[:LOGIT_ROWS, columns]))
            if speaks:
                found[name] |= _speech(folder, model, heard, told)
        if manifest.dummy_seed is not None:  # no clip but the first is compared
            break
    return found


def _speech(folder: Path, model: Model, heard: Heard, told: Answer) -> dict[str, Any]:
    """Write what a bundle says in a few frames; return how many."""
    spoken = speak(model, heard, told.tokens, frames=SPOKEN_FRAMES)
    write_array(folder, f"{FOLDER}/spoken.tokens", np.array(spoken.tokens, np.int64))
    write_array(folder, f"{FOLDER}/spoken.codes", spoken.codes)
    write_array(folder, f"{FOLDER}/spoken.sound", spoken.mel if len(spoken.mel) else spoken.samples)
    return {"spoken": len(spoken.codes)}


def _fits(bundle: Bundle, recipe: Recipe, *components: str) -> bool:
    files = {bundle.manifest.components[name].data for name in components}
    if "backbone" in components:
        files |= {table.weight.file for table in bundle.manifest.tables().values()}
    size = sum(entry.bytes for entry in bundle.manifest.files if entry.path in files)
    return size <= recipe.check.twin_limit_mib << 20


def _ears(bundle: Bundle) -> Model:
    """Return a Model without its backbone's engine: it hears and cannot answer."""
    settings = LoadSettings(threads=1, context_tokens=1, backend=twin_of(bundle.manifest.dialect))
    loaded = load_engines(bundle, ("encoder", "adapter"), settings)
    return Model(bundle, loaded.engines, TokenTable(bundle), load_tokenizer(bundle), 1, loaded.backend)
