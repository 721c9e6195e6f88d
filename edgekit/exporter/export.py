"""Export and quantize: from a checkpoint, or from a float bundle, to a bundle that has been judged.

Measure what the encoder's INT8 needs; build every graph and take the census; judge, weight by weight and against the
float twin; store goldens and publish.
Nothing is published that failed a step; ``accept_loss`` records a waiver of the quality gate only.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle import Bundle, Manifest, Precision, encode, open_bundle
from edgekit.bundle.history import read_manifest
from edgekit.errors import BundleFormatError, CheckpointError
from edgekit.exporter.build import build, calibrated, check_heads
from edgekit.exporter.checks.clips import with_clips_claimed
from edgekit.exporter.checks.goldens import store_goldens
from edgekit.exporter.checks.quality import rounded
from edgekit.exporter.dialects import DIALECTS, Dialect
from edgekit.exporter.dummy import dummy_recipe
from edgekit.exporter.finer import resolve_finer
from edgekit.exporter.judge import judge
from edgekit.exporter.options import ExportOptions, find_recipe, resolve
from edgekit.exporter.pack import building, list_files, write_manifest
from edgekit.exporter.provenance import write_provenance
from edgekit.exporter.source import Source, bundle_source, checkpoint_source, dummy_source
from edgekit.recipe import Recipe, load_target, stored_recipe
from edgekit.runtime.judge.record import JUDGED, record

__all__ = ["ExportOptions", "export", "quantize"]


def export(checkpoint: str | Path, output: str | Path, options: ExportOptions | None = None) -> Manifest:
    """Write a bundle for a checkpoint, or for a config alone with ``dummy_weights``; return its manifest.

    checkpoint: its folder or config.json, a short name such as ``edgekit-tiny``, or an id of the hub, which is fetched.
    Raises CheckpointError, RecipeError, CensusError, QualityError or OutputError; then ``output`` is as it was before.
    """
    options = options or ExportOptions()
    if options.dummy_weights:
        source = dummy_source(checkpoint, revision=options.revision, offline=options.offline, bars=options.bars)
        recipe = dummy_recipe(find_recipe(options.recipe, source.config), source.name)
    else:
        source = checkpoint_source(checkpoint, revision=options.revision, offline=options.offline, bars=options.bars)
        recipe = find_recipe(options.recipe, source.config)
    target = load_target(options.target)
    how = msgspec.structs.replace(recipe.quantize, activations=target.activations)
    recipe = msgspec.structs.replace(recipe, quantize=how)
    return _make(source, Path(output), recipe, options, DIALECTS.get(target.dialect))


def quantize(bundle: str | Path, output: str | Path, options: ExportOptions | None = None) -> Manifest:
    """Write a quantised bundle from a float one: the same bytes as exporting the checkpoint straight to it."""
    options = options or ExportOptions()
    opened = open_bundle(bundle)
    if any(kind != "float32" for kind in opened.manifest.precision.values()):
        raise CheckpointError(
            f"{bundle}: is quantised already ({_summary(opened.manifest.precision)}); quantize a float32 bundle instead"
        )
    if options.precision is None and not options.groups:
        options = replace(options, precision="int8")
    recipe = stored_recipe(opened.manifest.recipe, bundle)
    return _make(bundle_source(opened), Path(output), recipe, options, DIALECTS.get(opened.manifest.dialect))


def _make(source: Source, output: Path, recipe: Recipe, options: ExportOptions, dialect: Dialect) -> Manifest:
    """Build, judge and publish."""
    check_heads(source.opened, dialect)
    recipe = resolve(recipe, options, source.opened, source.name)
    recipe = with_clips_claimed(recipe, source.opened.protocol(source.tokenizer))
    how = msgspec.structs.replace(recipe.quantize, encoder_activations=dialect.encoder_activations)
    recipe = msgspec.structs.replace(recipe, quantize=how)
    with building(output, overwrite=options.overwrite) as folder:
        finer = resolve_finer(source, recipe, dialect, folder.parent)
        recipe = finer.recipe
        calibration = calibrated(source, recipe, dialect, folder.parent)
        manifest = build(
            source, folder, recipe, dialect, progress=options.progress, calibration=calibration,
            smoothing=finer.smoothing,
        )  # fmt: skip
        check_loads(manifest)
        verification = judge(source, Bundle(folder, manifest), recipe, options, dialect) | rounded(finer.results)
        if calibration:
            verification["float_inputs"] = list(calibration.kept_float)
        return _publish(folder, manifest, verification, recipe)


def _publish(folder: Path, manifest: Manifest, verification: dict[str, Any], recipe: Recipe) -> Manifest:
    """Store goldens, unless judging beside a twin did, and the manifest with the record; return the manifest."""
    if "goldens" not in verification:
        verification |= store_goldens(Bundle(folder, manifest), recipe)
    manifest = msgspec.structs.replace(manifest, verification=verification, files=list_files(folder))
    verification = verification | {JUDGED: record(encode(manifest))}
    manifest = msgspec.structs.replace(manifest, verification=verification)
    check_loads(manifest)
    write_manifest(folder, manifest)
    write_provenance(folder)
    return manifest


def check_loads(manifest: Manifest) -> None:
    """Raise CheckpointError if no bundle with this manifest would load: the checkpoint's configs say what cannot be."""
    try:
        read_manifest(encode(manifest))
    except BundleFormatError as error:
        raise CheckpointError(
            f"{manifest.name}: {str(error).removesuffix('; export it again')}; what is made of it would not load, "
            "correct the checkpoint's configs or the recipe"
        ) from error


def _summary(precision: Mapping[str, Precision]) -> str:
    return ", ".join(f"{group} {kind}" for group, kind in sorted(precision.items()))
