"""Judge: is what was built the checkpoint, does it hear what people say, and does it say what its float twin says?

Every weight is compared with its source; one recording must come out in words that a person said; then the bundle runs
beside a twin in float, on the recipe's check clips.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from edgekit.bundle import Bundle
from edgekit.exporter.build import as_float, build
from edgekit.exporter.checks.goldens import store_goldens
from edgekit.exporter.checks.limits import pass_or_waive
from edgekit.exporter.checks.quality import compare, rounded, whole_clip_distance
from edgekit.exporter.checks.said import best, words_said
from edgekit.exporter.checks.weight_check import check_weights, weight_errors
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families import Opened
from edgekit.exporter.options import ExportOptions
from edgekit.exporter.source import Source
from edgekit.exporter.tables import written_bundle
from edgekit.recipe import GridSettings, Recipe


def judge(source: Source, made: Bundle, recipe: Recipe, options: ExportOptions, dialect: Dialect) -> dict[str, Any]:
    """Return the results of weight check, transcripts, quality gate and distance to the whole clip.

    Raises QualityError where one fails; the weight check's may not be accepted, what the others find may.
    """
    opened, manifest = source.opened, made.manifest
    weights = written_bundle(made.folder, opened, dialect, manifest.components, manifest.tables())
    checked = check_weights(opened, weights, source.tensors, lambda done, total: options.progress("check", done, total))
    found: dict[str, Any] = {"weights": checked}
    if source.dummy_seed is not None:  # noise has no quality to lose
        return rounded(found | {"twin": "none"})
    measured: dict[str, float] = {}
    if (said := words_said(made, recipe)) is not None:
        found["transcripts"] = said
        if (error := best(said)) is not None:
            measured["transcript_error_rate"] = error
    runs = bool(recipe.check.clips)
    runs &= sum(row.float32_bytes or row.bytes for row in manifest.census) <= recipe.check.twin_limit_mib << 20
    plain = all(kind == "float32" for kind in manifest.precision.values())
    if plain and recipe.quantize.activations == "float32":
        found |= _whole_clip(opened, made, recipe) if runs else {}
    else:
        measured |= weight_errors(checked, manifest.precision)
        found |= _beside_twin(source, made, recipe, options, dialect) if runs else {"twin": "weights"}
    measured |= found.get("measured", {})
    if measured:
        found["measured"] = measured
        found |= pass_or_waive(manifest.name, found, recipe.limits, manifest.precision, options.accept_loss)
    return rounded(found)


def _beside_twin(
    source: Source, made: Bundle, recipe: Recipe, options: ExportOptions, dialect: Dialect
) -> dict[str, Any]:
    """Return what was found beside the float twin, and the twin's own distance to the whole clip."""
    with TemporaryDirectory(prefix=".twin.", dir=made.folder.parent) as folder:
        built = build(source, Path(folder), as_float(recipe), dialect, progress=options.progress)
        twin = Bundle(Path(folder), built)
        found = compare(made, twin, recipe, options.progress) | _whole_clip(source.opened, twin, recipe)
        return found | store_goldens(made, recipe, twin)


def _whole_clip(opened: Opened, twin: Bundle, recipe: Recipe) -> dict[str, Any]:
    """Return the distance between a chunked grid and the family's own window; nothing where they are the same."""
    if twin.manifest.grid.mode == "exact" or not recipe.check.clips:
        return {}
    window = GridSettings(mode="exact")
    exact = msgspec.structs.replace(twin.manifest, grid=opened.grid(window), front_end=opened.front_end(window))
    return {"whole_clip": whole_clip_distance(twin, Bundle(twin.folder, exact), recipe)}
