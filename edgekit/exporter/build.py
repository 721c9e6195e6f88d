"""Build: write what a recipe asks for of a source into a folder, and say in a manifest what that is.

Nothing is judged here but the census, which reads every weight back.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.bundle import FORMAT_VERSION, Manifest, Precision, TokenProtocol
from edgekit.errors import CheckpointError
from edgekit.exporter.calibrate import Calibration, calibrate
from edgekit.exporter.checks.census import check_census, take_census
from edgekit.exporter.checks.quality import Progress
from edgekit.exporter.dialects import Dialect
from edgekit.exporter.families import Opened
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.pack import list_files, tied_embedding, write_embedding, write_json
from edgekit.exporter.quantize import SCALE
from edgekit.exporter.source import CONFIG, GENERATION, TOKENIZER, Source
from edgekit.exporter.speech import with_voices
from edgekit.exporter.tables import JoinedTensors, write_tables, written_bundle
from edgekit.exporter.weights import Float, Weights
from edgekit.exporter.written import written_weights
from edgekit.recipe import Group, Recipe
from edgekit.runtime.graphs.source import written_graph


def build(
    source: Source,
    folder: Path,
    recipe: Recipe,
    dialect: Dialect,
    *,
    progress: Progress,
    calibration: Calibration | None = None,
    smoothing: Mapping[str, Float] | None = None,
) -> Manifest:
    """Write graphs, token tables, tokenizer, configs and voices into ``folder``; return the manifest without results.

    calibration, smoothing: what was measured of the encoder's inputs, see ``Weights``.

    Raises CensusError where a weight is not stored as the recipe says.
    """
    opened = source.opened
    protocol = opened.protocol(source.tokenizer)  # first: a tokenizer that lacks a token fails before any work
    precision = _precision(opened, recipe)
    total = sum(4 * math.prod(shape) for shape in opened.expected().values())
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        progress("build", done, total)

    ranges = calibration.ranges if calibration else {}
    w = Weights(JoinedTensors(source.tensors, opened), precision, recipe.quantize, report, ranges, smoothing or {})
    components = {}
    for name, group in opened.components.items():
        with GraphWriter(folder, name, dialect, recipe.quantize.activations) as g:
            opened.build(name, g, w)
            components[name] = g.close(precision[group] if group else "float32")
        dialect.check(folder / components[name].graph, recipe.quantize.activations)
        written_graph(folder, components[name], dialect.name).check()  # as a device will
    weights = written_weights(folder, components, dialect.packings)
    head = weights.get(opened.stored(opened.embedding))
    tied = tied_embedding(folder, head, weights.get(head.name + SCALE)) if head else None
    embedding = tied or write_embedding(folder, w, opened.embedding, opened.group(opened.embedding))
    tables = write_tables(folder, opened, w)
    every = written_bundle(folder, opened, dialect, components, {"embedding": embedding} | tables)
    census = take_census(opened, every)
    check_census(opened, dialect, census, precision, recipe.quantize)
    write_json(folder / CONFIG, source.config)
    write_json(folder / GENERATION, source.generation)
    (folder / TOKENIZER).write_text(source.tokenizer, encoding="utf-8")
    protocol = msgspec.structs.replace(
        protocol,
        context_tokens=_context_tokens(opened, protocol, recipe),
        max_tokens_per_s=recipe.max_tokens_per_s,
        max_repeats=(protocol.max_repeats if recipe.max_repeats is None else recipe.max_repeats) or None,
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=recipe.name or source.name,
        family=source.family.name,
        dialect=dialect.name,
        requires=dialect.requires(census),
        precision=precision,
        components=components,
        embedding=embedding,
        front_end=opened.front_end(recipe.grid),
        grid=opened.grid(recipe.grid),
        protocol=protocol,
        levels=recipe.levels or opened.levels,
        gate=recipe.gate,
        recipe=msgspec.to_builtins(recipe),
        census=census,
        verification={},
        files=(),
        source=source.origin,
        dummy_seed=source.dummy_seed,
        speech=opened.speech(tables, source.tokenizer),
        license=recipe.license,
    )
    manifest = with_voices(folder, manifest, source.voices)
    return msgspec.structs.replace(manifest, files=list_files(folder))


def _context_tokens(opened: Opened, protocol: TokenProtocol, recipe: Recipe) -> int:
    """Return the length of the KV cache: no longer than a conversation may be, so that old turns go before it ends."""
    wanted = recipe.context_tokens or protocol.context_tokens
    return min(wanted, opened.max_context, protocol.max_length or wanted)


def check_heads(opened: Opened, dialect: Dialect) -> None:
    """Return if a dialect's attention takes every head; raises CheckpointError with the key of one that it does not."""
    for heads in (one for part in opened.parts for one in part.attends):
        step = dialect.head_steps[heads.turned]
        if heads.size < 1 or heads.size % step:
            raise CheckpointError(
                f"config.json: {heads.key} is {heads.size}, attention of dialect '{dialect.name}' takes multiples of "
                f"{step}{' where positions are rotary' if heads.turned else ''}; choose a target of another dialect, "
                "or another checkpoint"
            )


def calibrated(source: Source, recipe: Recipe, dialect: Dialect, beside: Path) -> Calibration | None:
    """Return the ranges of the encoder's INT8 activations where the dialect wants them fixed; None if it does not.

    ``beside``: a folder for the graphs that find them.
    """
    if dialect.encoder_activations != "static" or _precision(source.opened, recipe).get("encoder") != "int8":
        return None
    precision = _precision(source.opened, as_float(recipe))
    w = Weights(source.tensors, precision, recipe.quantize, observes="inputs")
    return calibrate(source.opened, w, recipe, dialect, beside)


def as_float(recipe: Recipe) -> Recipe:
    """Return a recipe of the float twin: nothing is rounded."""
    how = msgspec.structs.replace(recipe.quantize, activations="float32")
    return msgspec.structs.replace(recipe, precision=dict.fromkeys(recipe.precision, "float32"), quantize=how)


def _precision(opened: Opened, recipe: Recipe) -> dict[Group, Precision]:
    """Return the precision of each group that there are weights of."""
    return {group: recipe.kind(group) for group in opened.groups}
