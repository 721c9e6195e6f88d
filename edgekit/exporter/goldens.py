"""Goldens: what a bundle computed when it was made, stored inside it for `edgekit verify` to compare on the device."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle, Manifest
from edgekit.exporter.pack import write_array
from edgekit.exporter.quality import check_clips
from edgekit.recipe import Recipe
from edgekit.runtime.model import load_opened
from edgekit.runtime.probe import answer, hear
from edgekit.runtime.verify import CALLS, FOLDER, LOGIT_ROWS, POSITIONS, sample_columns


def store_goldens(folder: Path, manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """Write arrays of the first check clip below ``goldens/``; return the tokens and text of every clip."""
    model = load_opened(Bundle(folder, manifest))
    found: dict[str, Any] = {}
    for index, (name, samples) in enumerate(check_clips(recipe).items()):
        heard = hear(model, samples)
        told = answer(model, heard)
        found[name] = {"text": told.text, "tokens": list(told.tokens)}
        if index == 0:
            for call, mel in enumerate(heard.mel[:CALLS]):
                write_array(folder, f"{FOLDER}/mel.{call}", mel)
            for call, part in enumerate(heard.parts[:CALLS]):
                write_array(folder, f"{FOLDER}/heard.{call}", part)
            write_array(folder, f"{FOLDER}/frames", heard.frames[:POSITIONS])
            columns = sample_columns(told.logits.shape[1])
            write_array(folder, f"{FOLDER}/logits", np.ascontiguousarray(told.logits[:LOGIT_ROWS, columns]))
    return found
