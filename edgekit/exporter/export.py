"""Export and quantize: from a checkpoint, or from a float bundle, to a bundle that has been judged.

Build every graph, take the census, check every weight against its source, run the quality gate against the float twin,
store goldens, then publish. Nothing is published that failed a step; ``accept_loss`` records a waiver of the quality
gate only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from edgekit.bundle import FORMAT_VERSION, Bundle, Manifest, Precision, open_bundle
from edgekit.errors import CheckpointError, UsageError
from edgekit.exporter.calibrate import Calibration, calibrate
from edgekit.exporter.checks.census import check_census, take_census
from edgekit.exporter.checks.goldens import store_goldens
from edgekit.exporter.checks.quality import Progress, compare, pass_or_waive, rounded, whole_clip_distance
from edgekit.exporter.checks.weight_check import check_weights
from edgekit.exporter.dialects import DIALECTS, Dialect
from edgekit.exporter.families import Family, find_family, open_beside
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.pack import (
    building,
    list_files,
    tied_embedding,
    write_embedding,
    write_json,
    write_manifest,
)
from edgekit.exporter.provenance import write_provenance
from edgekit.exporter.quantize import SCALE
from edgekit.exporter.sources.checkpoint import Tensors, check_names, open_checkpoint
from edgekit.exporter.sources.dummy import SEED, dummy_recipe, open_dummy
from edgekit.exporter.sources.tokenizer import tokenizer_json
from edgekit.exporter.speech import bundle_voices, prepare_voices, with_voices
from edgekit.exporter.tables import JoinedTensors, write_tables, written_bundle
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import BundleTensors, written_weights
from edgekit.recipe import GROUPS, GridSettings, Group, PrecisionSettings, Recipe, load_recipe, load_target
from edgekit.resources import resource
from edgekit.runtime.backends.external_data import check_external_data
from edgekit.runtime.speak.voice import Voice

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"

_RECIPES = {"step_audio_2": "step-audio-2-mini", "qwen3_omni_moe": "qwen3-omni-30b"}
FLOAT = PrecisionSettings(encoder="float32", backbone="float32", experts="float32", head="float32", decoder="float32")


def _silent(_stage: str, _done: int, _total: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What a user may ask of an export beside the recipe. ``precision`` sets every group, ``groups`` single ones.

    ``source``: where the checkpoint comes from, such as ``id@commit`` of the hub; the manifest keeps it.
    ``dummy_weights``: noise in place of weights; the checkpoint is then its config alone.
    """

    recipe: str | Path | None = None
    target: str = "cpu"
    precision: Precision | None = None
    groups: Mapping[Group, Precision] = field(default_factory=dict)
    mode: str | None = None
    chunk_ms: int | None = None
    source: str = ""
    dummy_weights: bool = False
    accept_loss: str | None = None
    overwrite: bool = False
    progress: Progress = _silent


@dataclass(frozen=True, slots=True)
class _Source:
    """Where tensors, config, tokenizer and voices come from."""

    tensors: Tensors
    family: Family
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tokenizer: str
    name: str
    origin: str = ""
    dummy_seed: int | None = None
    voices: Mapping[str, Voice] = field(default_factory=dict)


def export(checkpoint: str | Path, output: str | Path, options: ExportOptions | None = None) -> Manifest:
    """Write a bundle for a checkpoint folder, or for a config alone with ``dummy_weights``; return its manifest.

    Raises CheckpointError, RecipeError, CensusError, QualityError or OutputError; then ``output`` is as it was before.
    """
    options = options or ExportOptions()
    source = (_dummy_source if options.dummy_weights else _checkpoint_source)(checkpoint, options.source)
    recipe = find_recipe(options.recipe, source.config)
    if options.dummy_weights:
        recipe = dummy_recipe(recipe, source.name)
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
    recipe = msgspec.convert(opened.manifest.recipe, Recipe)
    return _make(bundle_source(opened), Path(output), recipe, options, DIALECTS.get(opened.manifest.dialect))


def _checkpoint_source(checkpoint: str | Path, origin: str) -> _Source:
    found = open_checkpoint(checkpoint)
    whole = open_beside(found)
    family = find_family(whole.config, found.generation)
    check_names(whole.tensors, family.expected(), family.ignored)
    name = _name_on_hub(origin) or found.folder.resolve().name
    return _Source(
        whole.tensors, family, whole.config, found.generation, tokenizer_json(found.folder), name, origin,
        voices=prepare_voices(whole),
    )  # fmt: skip


def _dummy_source(config: str | Path, origin: str) -> _Source:
    made = open_dummy(config)
    name = _name_on_hub(origin) or made.name
    return _Source(made.tensors, made.family, made.config, made.generation, made.tokenizer, name, origin, SEED)


def _name_on_hub(origin: str) -> str:
    return origin.partition("@")[0].rpartition("/")[2]


def bundle_source(opened: Bundle) -> _Source:
    """Return a float bundle as a source."""
    for component in opened.manifest.components.values():
        check_external_data(opened.folder, component.graph, component.data)
    config = json.loads(opened.file(CONFIG).read_bytes())
    generation = json.loads(opened.file(GENERATION).read_bytes())
    family = find_family(config, generation)
    manifest = opened.manifest
    dialect = DIALECTS.get(manifest.dialect)
    weights = written_bundle(opened.folder, family, dialect, manifest.components, manifest.tables())
    tokenizer = opened.file(TOKENIZER).read_text(encoding="utf-8")
    return _Source(
        BundleTensors(weights), family, config, generation, tokenizer, manifest.name, manifest.source,
        manifest.dummy_seed, bundle_voices(opened),
    )  # fmt: skip


def find_recipe(named: str | Path | None, config: Mapping[str, Any]) -> Recipe:
    """Return the recipe given by path or name (a folder of ``export``, or FOLDER/FILE without ``.toml``).

    Else the one that the checkpoint's config names, else the one of its architecture.
    """
    if named is not None:
        path = Path(named)
        if path.suffix == ".toml":
            return load_recipe(path)
        folder = resource("export") / str(named)
        return load_recipe(folder / "recipe.toml" if folder.is_dir() else folder.with_name(folder.name + ".toml"))
    extra = config.get("edgekit")
    shipped = extra.get("recipe") if isinstance(extra, Mapping) else None
    name = shipped or _RECIPES.get(str(config.get("model_type")), "whisper")
    return load_recipe(resource("export") / str(name) / "recipe.toml")


def _resolve(recipe: Recipe, options: ExportOptions, dialect: Dialect) -> Recipe:
    precision: dict[Group, Precision] = {
        group: options.groups.get(group) or options.precision or getattr(recipe.precision, group) for group in GROUPS
    }
    asked = {"mode": options.mode, "chunk_ms": options.chunk_ms}
    grid = msgspec.structs.replace(recipe.grid, **{name: one for name, one in asked.items() if one is not None})
    how = msgspec.structs.replace(recipe.quantize, encoder_activations=dialect.encoder_activations)
    return msgspec.structs.replace(recipe, precision=PrecisionSettings(**precision), grid=grid, quantize=how)


def _make(source: _Source, output: Path, recipe: Recipe, options: ExportOptions, dialect: Dialect) -> Manifest:
    recipe = _resolve(recipe, options, dialect)
    offered = {source.family.group(name) for name in source.family.expected()}
    for group in options.groups:
        if group not in offered:
            known = ", ".join(f"--{name}" for name in GROUPS if name in offered)
            raise UsageError(f"--{group}: {source.name} has no such weights; it has {known}")
    if options.chunk_ms is not None and source.family.grid(recipe.grid).mode == "exact":
        raise UsageError(f"--chunk-ms {options.chunk_ms}: the family's own window has no chunks; add --mode chunked")
    with building(output, overwrite=options.overwrite) as folder:
        calibration = _calibrated(source, recipe, dialect, folder.parent)
        manifest = _build(source, folder, recipe, dialect, progress=options.progress, calibration=calibration)
        verification = _verified(source, Bundle(folder, manifest), recipe, options, dialect)
        if calibration:
            verification["float_inputs"] = list(calibration.kept_float)
        verification["goldens"] = store_goldens(folder, manifest, recipe)
        manifest = msgspec.structs.replace(manifest, verification=verification, files=list_files(folder))
        write_manifest(folder, manifest)
        write_provenance(folder)
    return manifest


def _verified(
    source: _Source, made: Bundle, recipe: Recipe, options: ExportOptions, dialect: Dialect
) -> dict[str, Any]:
    """Return the results of weight check, quality gate and distance to the whole clip; raise where one fails."""
    family, manifest = source.family, made.manifest
    weights = written_bundle(made.folder, family, dialect, manifest.components, manifest.tables())
    checked = check_weights(family, weights, source.tensors, lambda done, total: options.progress("check", done, total))
    found: dict[str, Any] = {"weights": checked}
    if source.dummy_seed is not None:  # noise has no quality to lose
        return rounded(found | {"twin": "none"})
    runs = bool(recipe.check.clips)
    runs &= sum(row.float32_bytes or row.bytes for row in manifest.census) <= recipe.check.twin_limit_mib << 20
    plain = all(kind == "float32" for kind in manifest.precision.values())
    if plain and recipe.quantize.activations == "float32":
        return rounded(found | (_whole_clip(family, made, recipe) if runs else {}))
    measured = {"weight_error": max(checked["error"].values(), default=0.0)}
    if runs:
        with TemporaryDirectory(prefix=".twin.", dir=made.folder.parent) as folder:
            built = _build(source, Path(folder), _as_float(recipe), dialect, progress=options.progress)
            twin = Bundle(Path(folder), built)
            found |= compare(made, twin, recipe, options.progress) | _whole_clip(family, twin, recipe)
        measured |= found["measured"]
    else:  # weight by weight only, which needs no clips and no memory
        found["twin"] = "weights"
    found["measured"] = measured
    found |= pass_or_waive(manifest.name, measured, recipe.limits, options.accept_loss)
    return rounded(found)


def _whole_clip(family: Family, twin: Bundle, recipe: Recipe) -> dict[str, Any]:
    """Return the distance between a chunked grid and the family's own window; nothing where they are the same."""
    if twin.manifest.grid.mode == "exact" or not recipe.check.clips:
        return {}
    window = GridSettings(mode="exact")
    exact = msgspec.structs.replace(twin.manifest, grid=family.grid(window), front_end=family.front_end(window))
    return {"whole_clip": whole_clip_distance(twin, Bundle(twin.folder, exact), recipe)}


def _as_float(recipe: Recipe) -> Recipe:
    how = msgspec.structs.replace(recipe.quantize, activations="float32")
    return msgspec.structs.replace(recipe, precision=FLOAT, quantize=how)


def _calibrated(source: _Source, recipe: Recipe, dialect: Dialect, beside: Path) -> Calibration | None:
    """Return the ranges of the encoder's INT8 activations where the dialect wants them fixed; None if it does not."""
    if dialect.encoder_activations != "static" or recipe.precision.encoder != "int8":
        return None
    w = Weights(source.tensors, _precision(source.family, _as_float(recipe)), recipe.quantize, observes=True)
    return calibrate(source.family, w, recipe, dialect, beside)


def _precision(family: Family, recipe: Recipe) -> dict[Group, Precision]:
    """Return the precision of each group that a family has weights of."""
    used = {family.group(name) for name in family.expected()}
    return {group: getattr(recipe.precision, group) for group in GROUPS if group in used}


def _build(
    source: _Source,
    folder: Path,
    recipe: Recipe,
    dialect: Dialect,
    *,
    progress: Progress,
    calibration: Calibration | None = None,
) -> Manifest:
    """Write graphs, token table, tokenizer and configs into ``folder``; return the manifest without results."""
    family = source.family
    protocol = family.protocol(source.tokenizer)  # first: a tokenizer that lacks a token fails before any work
    precision = _precision(family, recipe)
    total = sum(_bytes(shape) for shape in family.expected().values())
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress("build", done, total)

    ranges = calibration.ranges if calibration else {}
    w = Weights(JoinedTensors(source.tensors, family), precision, recipe.quantize, report, ranges)
    components = {}
    for name in family.components:
        with GraphWriter(folder, name, dialect, recipe.quantize.activations) as g:
            family.build(name, g, w)
            components[name] = g.close(_component_precision(name, precision))
        dialect.check(folder / components[name].graph, recipe.quantize.activations)
    weights = written_weights(folder, components, dialect.packings)
    head = weights.get(family.stored(family.embedding))
    tied = tied_embedding(folder, head, weights.get(head.name + SCALE)) if head else None
    embedding = tied or write_embedding(folder, w, family.embedding)
    tables = write_tables(folder, family, w)
    every = written_bundle(folder, family, dialect, components, {"embedding": embedding} | tables)
    census = take_census(family, every)
    check_census(family, dialect, census, precision)
    write_json(folder / CONFIG, source.config)
    write_json(folder / GENERATION, source.generation)
    (folder / TOKENIZER).write_text(source.tokenizer, encoding="utf-8")
    protocol = msgspec.structs.replace(
        protocol,
        context_tokens=min(recipe.context_tokens or protocol.context_tokens, family.max_context),
        max_tokens_per_s=recipe.max_tokens_per_s,
        max_repeats=recipe.max_repeats,
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=recipe.name or source.name,
        family=family.name,
        dialect=dialect.name,
        requires=dialect.requires(census),
        precision={str(group): kind for group, kind in precision.items()},
        components=components,
        embedding=embedding,
        front_end=family.front_end(recipe.grid),
        grid=family.grid(recipe.grid),
        protocol=protocol,
        levels=recipe.levels or family.levels(),
        gate=recipe.gate,
        recipe=msgspec.to_builtins(recipe),
        census=census,
        verification={},
        files=(),
        source=source.origin,
        dummy_seed=source.dummy_seed,
        speech=family.speech(tables, source.tokenizer),
        license=recipe.license,
    )
    manifest = with_voices(folder, manifest, source.voices)
    return msgspec.structs.replace(manifest, files=list_files(folder))


def _component_precision(component: str, precision: Mapping[Group, Precision]) -> Precision:
    groups: dict[str, Group] = {"encoder": "encoder", "adapter": "encoder", "backbone": "backbone"}
    return "float32" if component == "vocoder" else precision[groups.get(component, "decoder")]


def _bytes(shape: tuple[int, ...]) -> int:
    size = 4
    for count in shape:
        size *= count
    return size


def _summary(precision: Mapping[str, Precision]) -> str:
    return ", ".join(f"{group} {kind}" for group, kind in sorted(precision.items()))
