"""Goldens: what `edgekit verify` compares with on the device, stored inside the bundle when it is made.

Arrays are of the float twin where the export made one: rounding differs between processors, and how far a bundle may be
from the float numbers is what its recipe says. Tokens and texts are the bundle's own. The clips are stored with them,
so that a device needs nothing but the bundle.

A bundle that is larger than the recipe's limit is not run whole, so that an export needs little memory: its encoder and
adapter are, if they fit; its backbone is known by its hash and its weight check alone.
"""

from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.exporter.checks.clips import language_of
from edgekit.exporter.checks.quality import check_clips
from edgekit.exporter.pack import write_array
from edgekit.recipe import Recipe
from edgekit.runtime.answer.embedding import TokenTable
from edgekit.runtime.answer.text import load_tokenizer
from edgekit.runtime.assemble import make_listener
from edgekit.runtime.backends import LoadSettings, load_engines, twin_of
from edgekit.runtime.engine import Array
from edgekit.runtime.judge.golden_clips import CLIP, FOLDER, as_heard, in_16_bits, packed
from edgekit.runtime.judge.goldens import (
    COMPARED,
    ITSELF,
    LANGUAGE,
    NO_CLIPS,
    NOTHING,
    SAMPLED,
    SPOKEN_FRAMES,
    TOO_LARGE,
    TWIN,
    WHY,
    compared_levels,
    distance,
    results,
    stored_part,
    told,
)
from edgekit.runtime.judge.probe import Heard, answer, hear, speak
from edgekit.runtime.model import Model, load_opened
from edgekit.runtime.speak import Spoken
from edgekit.timing import Trace

MOST_CLIPS = 8  # each is heard and answered on the device, twice where levels differ
SHARE = 0.05  # of a bundle, that its goldens take at most
FREE_BYTES = 1_000_000  # that they may take of any
_ARRAYS_BYTES = 10 * 4 * SAMPLED  # of all arrays together, and of the codes of speech


def store_goldens(made: Bundle, recipe: Recipe, twin: Bundle | None = None) -> dict[str, Any]:
    """Write arrays of the first clip, and samples of all, below ``goldens/``; return ``goldens`` and ``compared``.

    twin: the bundle in float, which the arrays are then of. ``goldens``: clip to the file of its samples, and to tokens
    and texts if the backbone ran.
    """
    manifest = made.manifest
    whole = _fits(made, recipe, *manifest.components)
    if not recipe.check.clips:
        return _nothing(NO_CLIPS)
    if not (whole or _fits(made, recipe, "encoder", "adapter")):
        return _nothing(TOO_LARGE)
    speaks = whole and manifest.speech is not None
    model = _loaded(made, speaks) if whole else _ears(made)
    goldens: dict[str, Any] = {}
    clips = _write_clips(model, recipe, first_alone=not whole)
    for name, (file, samples) in clips.items():
        heard = hear(model, samples)
        goldens[name] = {CLIP: file} | (_answers(model, heard, language_of(name, manifest.protocol)) if whole else {})
    name, (_, samples) = next(iter(clips.items()))
    said = _say(model, samples, goldens[name]) if speaks else None
    ours = results(model, hear(model, samples), goldens[name], said).arrays
    against: dict[str, Any]
    if twin is None:
        theirs = ours
        against = {"with": ITSELF}
    else:
        reference = _loaded(twin, speaks)
        theirs = results(reference, hear(reference, samples), goldens[name], said).arrays
        apart = {
            file: distance(file, stored_part(file, array), stored_part(file, theirs[file]))
            for file, array in ours.items()
        }
        against = {"with": TWIN, "distance": apart}
    for file, array in theirs.items():
        write_array(made.folder, f"{FOLDER}/{file}", stored_part(file, array))
    return {"goldens": goldens, COMPARED: against}


def _nothing(why: str) -> dict[str, Any]:
    return {"goldens": {}, COMPARED: {"with": NOTHING, WHY: why}}


def _write_clips(model: Model, recipe: Recipe, *, first_alone: bool) -> dict[str, tuple[str, Array]]:
    """Write the clips that goldens are made of; return name to the file and to the samples as a stream takes them.

    Of more than there is room for, those are taken that lie evenly in the order of their names.
    """
    made, manifest = model.bundle, model.manifest
    rate, longest = manifest.front_end.sample_rate_hz, make_listener(model, Trace()).room_samples
    room = max(FREE_BYTES, SHARE * sum(file.bytes for file in manifest.files)) - _ARRAYS_BYTES
    found = sorted(check_clips(recipe, rate).items())  # as the manifest has its keys
    every = {name: in_16_bits(samples[:longest]) for name, samples in found}
    files = {name: packed(samples, rate) for name, samples in every.items()}
    # tokens of noise are not compared, so its first clip is enough
    names: list[str] = []
    for count in range(1 if first_alone or manifest.dummy_seed is not None else min(MOST_CLIPS, len(found)), 0, -1):
        names = [found[round(at)][0] for at in np.linspace(0, len(found) - 1, count)]
        if sum(len(files[name][1]) for name in names) <= room:
            break
    chosen = {}
    for index, name in enumerate(names):
        kind, content = files[name]
        file = f"{FOLDER}/{CLIP}.{index}.{kind}"
        (made.folder / file).parent.mkdir(exist_ok=True)
        (made.folder / file).write_bytes(content)
        chosen[name] = (file, as_heard(every[name]))
    return chosen


def _answers(model: Model, heard: Heard, language: str | None) -> dict[str, Any]:
    """Return what a clip's entry holds of its answers, by role; those of the fullest level stand in it themselves."""
    levels = compared_levels(model.manifest).items()
    answers = {role: told(answer(model, heard, level=level, language=language)) for role, level in levels}
    return ({} if language is None else {LANGUAGE: language}) | answers.pop("") | answers


def _say(model: Model, samples: Array, entry: dict[str, Any]) -> Spoken:
    """Write the codes of what a bundle says in a few frames, and the tokens that were fed for them; return it.

    ``entry``, the clip's, gets how many frames.
    """
    said = speak(model, hear(model, samples), entry["tokens"], frames=SPOKEN_FRAMES)
    write_array(model.bundle.folder, f"{FOLDER}/spoken.tokens", np.array(said.tokens, np.int64))
    write_array(model.bundle.folder, f"{FOLDER}/spoken.codes", said.codes)
    entry["spoken"] = len(said.codes)
    return said


def _loaded(bundle: Bundle, speaks: bool) -> Model:
    return load_opened(bundle, speak=speaks, backend=twin_of(bundle.manifest.dialect))


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
